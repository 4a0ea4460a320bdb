package project

import (
	"fmt"
	"reflect"
	"testing"
	"unsafe"
)

// TestMemo_RoundTrip checks that every field of an entry is encoded and decoded,
// including fields that are added later.
func TestMemo_RoundTrip(t *testing.T) {
	n := 0
	var fill func(v reflect.Value)
	fill = func(v reflect.Value) {
		n++
		switch v.Kind() {
		case reflect.String:
			v.SetString(fmt.Sprint("s", n))
		case reflect.Int:
			v.SetInt(int64(n))
		case reflect.Bool:
			v.SetBool(true)
		case reflect.Uint8:
			v.SetUint(uint64(n%90 + 1))
		case reflect.Pointer:
			v.Set(reflect.New(v.Type().Elem()))
			fill(v.Elem())
		case reflect.Slice:
			v.Set(reflect.MakeSlice(v.Type(), 2, 2))
			fill(v.Index(0))
			fill(v.Index(1))
		case reflect.Map:
			v.Set(reflect.MakeMap(v.Type()))
			for range 2 {
				e := reflect.New(v.Type().Elem()).Elem()
				fill(e)
				v.SetMapIndex(reflect.ValueOf(fmt.Sprint("k", n)), e)
			}
		case reflect.Struct:
			for i := range v.NumField() {
				if name := v.Type().Field(i).Name; name == "To" { // the targets of edges are resolved again
					continue
				}
				f := v.Field(i)
				fill(reflect.NewAt(f.Type(), unsafe.Pointer(f.UnsafeAddr())).Elem())
			}
		default:
			t.Fatalf("cannot fill a %s", v.Type())
		}
	}
	var full, empty memoEntry
	fill(reflect.ValueOf(&full).Elem())
	empty.name = "empty"
	m := &memo{entry: "one"}
	raw := m.encode(map[string]*memoEntry{full.name: &full, "empty": &empty})
	got := m.decode(raw)
	if len(got) != 2 || !reflect.DeepEqual(*got[full.name], full) || !reflect.DeepEqual(*got["empty"], empty) {
		t.Errorf("got %+v\nwant %+v", got[full.name], full)
	}
	if other := (&memo{entry: "other"}).decode(raw); len(other) != 0 {
		t.Error("entries of one entry file were decoded for another")
	}
	for i := range raw {
		if cut := m.decode(raw[:i]); len(cut) != 0 {
			t.Fatalf("cut at %d of %d bytes it was decoded", i, len(raw))
		}
	}
}
