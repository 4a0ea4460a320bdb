package state

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/sets"
)

// headFormat1 is head.json and oldest.json of format 1.
type headFormat1 struct {
	Generation int           `json:"generation"`
	Object     digest.Digest `json:"object"`
}

// leasesFormat1 is leases.json of format 1.
type leasesFormat1 struct {
	Last int64 `json:"last"`
	Held []struct {
		Owner   Owner     `json:"owner"`
		Expires time.Time `json:"expires"`
	} `json:"held"`
}

// journalLineFormat1 is a line of journal.jsonl of format 1, which alone knew
// that an apply was interrupted.
type journalLineFormat1 struct {
	Start *struct {
		Machines []*graph.Machine `json:"machines"`
	} `json:"start"`
	Begin *struct {
		Address string `json:"address"`
		Machine string `json:"machine"`
		From    string `json:"from"`
		Former  string `json:"former"`
	} `json:"begin"`
}

// ErrCurrentFormat is returned if there is nothing to upgrade.
var ErrCurrentFormat = errors.New("the state has the format of this version of defx already")

// Upgrade converts a state of format 1, unless it has units with data, whose
// directories have other names now. It gets a lineage, and a generation in
// which every service has a replica; an interrupted apply becomes an open intent.
// Earlier generations and tokens stay as they are. After a crash it can be
// repeated.
func (s *Dir) Upgrade(ctx context.Context) (Head, error) {
	var head Head
	if _, err := os.Stat(filepath.Join(s.path, headName)); err != nil {
		return head, err
	}
	return head, s.withLock(ctx, func() error {
		_, err := s.readHead()
		if err == nil {
			return ErrCurrentFormat
		}
		if o := (*OtherFormat)(nil); !errors.As(err, &o) || o.Format != 1 {
			return err
		}
		var old headFormat1
		if err := s.readFormat1(headName, &old); err != nil {
			return err
		}
		if old.Generation <= 0 || old.Object == "" {
			return s.damaged(headName, errors.New("fields are missing"))
		}
		head = Head{Format: Format, Lineage: NewID(), Generation: old.Generation, Object: old.Object}
		if err := s.upgradeAddresses(ctx, &head); err != nil {
			return err
		}
		leases, err := s.upgradeLeases()
		if err != nil {
			return err
		}
		if err := s.upgradeJournal(ctx, &head, leases.Last); err != nil {
			return err
		}
		var oldest headFormat1
		if err := s.readFormat1(oldestName, &oldest); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if oldest.Object != "" {
			if err := s.writeFile(oldestName, Oldest{Format: Format, Generation: oldest.Generation, Object: oldest.Object}); err != nil {
				return err
			}
		}
		if err := s.writeFile(leasesName, leases); err != nil {
			return err
		}
		if err := s.restrict(); err != nil {
			return err
		}
		if err := s.writeFile(headName, head); err != nil {
			return err
		}
		err = os.Rename(filepath.Join(s.path, JournalName), filepath.Join(s.path, JournalName+".format-1"))
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return err
	})
}

// upgradeAddresses adds a generation in which every service has a replica.
func (s *Dir) upgradeAddresses(ctx context.Context, head *Head) error {
	store := unverified{s}
	g := &Generation{}
	if err := Load(ctx, store, head.Object, g); err != nil {
		return s.damaged(objectsName, err)
	}
	records, err := readChunks[plan.Record](ctx, store, g.Chunks)
	if err != nil {
		return s.damaged(objectsName, err)
	}
	records = append(records, g.Records...) // of versions before chunks
	p, err := LoadPlan(ctx, store, g)
	if err != nil {
		return s.damaged(objectsName, err)
	}
	next := *g
	next.Renamed = map[string]string{}
	for i := range records {
		r := &records[i]
		if r.Stateful && r.Machine != "" {
			return problem(fmt.Errorf("%s keeps data in a directory or volume to which this version of defx gives another name: it would start without its data", r.Address),
				"nothing was changed; with the older version, remove it and run defx apply --allow-delete %s: its data stays on the machine and can be copied to the new directory later", r.Address)
		}
		if now := graph.WithReplica(r.Address); now != r.Address {
			next.Renamed[now], r.Address = r.Address, now
		}
		r.Traits = upgradeTraits(r.Traits)
	}
	for i := range p.Units {
		p.Units[i].Address, p.Units[i].Traits = graph.WithReplica(p.Units[i].Address), upgradeTraits(p.Units[i].Traits)
	}
	slices.SortFunc(records, func(a, b plan.Record) int { return strings.Compare(a.Address, b.Address) })
	slices.SortFunc(p.Units, func(a, b plan.Placed) int { return strings.Compare(a.Address, b.Address) })
	if next.Plan, err = p.Digest(); err != nil {
		return err
	}
	if next.PlanObject, err = PutPlan(ctx, store, p); err != nil {
		return err
	}
	index, objects, err := split(records, func(r plan.Record) string { return r.Address })
	if err != nil {
		return err
	}
	next.Number, next.Parent, next.Records, next.Chunks, next.Lineage = g.Number+1, head.Object, nil, index, head.Lineage
	next.Apply, next.Verb, next.By, next.Applied = NewID(), "upgrade", CurrentOwner("upgrade").Who, time.Now().UTC().Truncate(time.Second)
	next.Summary, next.Failed = Counts{Unchanged: len(records)}, nil
	raw, d, err := Object(next)
	if err != nil {
		return err
	}
	head.Generation, head.Object, head.Applies = next.Number, d, next.applies()
	return s.Put(ctx, append(objects, raw)...)
}

// upgradeTraits adds replicas to addresses in traits.
func upgradeTraits(t plan.Traits) plan.Traits {
	for _, list := range []*[]string{&t.Requires, &t.After, &t.Follows} {
		*list = slices.Clone(*list)
		for i, address := range *list {
			(*list)[i] = graph.WithReplica(address)
		}
		slices.Sort(*list)
	}
	return t
}

// readFormat1 decodes a file of format 1.
func (s *Dir) readFormat1(name string, v any) error {
	raw, err := readRegular(filepath.Join(s.path, name))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return s.damaged(name, err)
	}
	return nil
}

// upgradeLeases returns the leases in the current format. It fails while an apply
// of the version before is running.
func (s *Dir) upgradeLeases() (leaseFile, error) {
	out := leaseFile{Format: Format, Held: map[string]Lease{}}
	var probe struct {
		Format int `json:"format"`
	}
	if err := s.readFormat1(leasesName, &probe); errors.Is(err, fs.ErrNotExist) {
		return out, s.damaged(leasesName, errors.New("the file is missing"))
	} else if err != nil {
		return out, err
	}
	if probe.Format == Format { // of an upgrade that was interrupted
		return out, s.readFile(leasesName, &out)
	}
	var old leasesFormat1
	if err := s.readFormat1(leasesName, &old); err != nil {
		return out, err
	}
	for _, h := range old.Held {
		if time.Now().Before(h.Expires) { // only the version before writes it, on this or a synchronized clock
			return out, fmt.Errorf("the environment is locked by %s (%s), which is of the version before, until %s", h.Owner.Who, h.Owner.Verb, h.Expires.Format(time.RFC3339))
		}
	}
	out.Last = old.Last
	return out, nil
}

// upgradeJournal adds an intent for an apply of the version before that was interrupted.
func (s *Dir) upgradeJournal(ctx context.Context, head *Head, token int64) error {
	raw, err := readRegular(filepath.Join(s.path, JournalName))
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(raw) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	machines, units := map[string]*graph.Machine{}, map[string][]string{}
	names := map[string]bool{}
	for line := range bytes.Lines(raw) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break
		}
		var l journalLineFormat1
		if err := json.Unmarshal(line, &l); err != nil {
			return s.damaged(JournalName, err)
		}
		if l.Start != nil {
			for _, m := range l.Start.Machines {
				machines[m.Name] = m
			}
		}
		if b := l.Begin; b != nil {
			for _, address := range []string{graph.WithReplica(b.Address), graph.WithReplica(b.Former)} {
				for _, name := range []string{b.Machine, b.From} {
					if address != "" && (name != "" || b.Machine == "") {
						units[address] = sets.Union(units[address], []string{name})
						names[name] = true
					}
				}
			}
		}
	}
	delete(names, "")
	d := IntentDetail{Kind: "Intent", Units: units, Intent: Intent{Apply: NewID(), Base: head.Object, Token: token, Verb: "apply of the version before",
		By: "unknown", Started: time.Now().UTC().Truncate(time.Second), Machines: sets.Keys(names)}}
	for _, name := range sets.Keys(machines) {
		d.Connections = append(d.Connections, machines[name])
	}
	if err := d.store(ctx, s.Put); err != nil {
		return err
	}
	head.Intents = []Intent{d.Intent}
	return nil
}

// restrict makes every file of the state readable by the user only.
func (s *Dir) restrict() error {
	return filepath.WalkDir(s.path, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil || slices.Contains([]string{"terraform"}, d.Name()) && d.IsDir():
			if err == nil {
				err = filepath.SkipDir
			}
			return err
		case d.IsDir():
			return os.Chmod(path, dirMode)
		case d.Type().IsRegular():
			return os.Chmod(path, fileMode)
		}
		return nil
	})
}
