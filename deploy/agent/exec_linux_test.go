package agent

import (
	"slices"
	"testing"
)

func TestCommandEnv_LoadsNoCodeOfTheService(t *testing.T) {
	got := commandEnv("PATH=/opt/bin:/bin\x00LD_PRELOAD=/tmp/x.so\x00LD_AUDIT=/tmp/x.so\x00GCONV_PATH=/tmp\x00GLIBC_TUNABLES=a=b\x00A=b=c\x00LDX=1\x00noise\x00")
	if want := []string{"PATH=/opt/bin:/bin", "A=b=c", "LDX=1"}; !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}
