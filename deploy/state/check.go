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

	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/openfile"
)

// Names in the folder of the state.
const (
	headName    = "head.json"
	leasesName  = "leases.json"
	oldestName  = "oldest.json"
	objectsName = "objects"
	JournalName = "journal.jsonl" // written by package apply
)

// Damaged is the cause of errors about a file of the state that is damaged or missing.
type Damaged struct {
	File    string // its path
	Problem error
}

func (d *Damaged) Error() string { return fmt.Sprintf("%s is damaged: %v", d.File, d.Problem) }
func (d *Damaged) Unwrap() error { return d.Problem }

// OtherFormat is the cause of errors about a state that another version of defx has written.
type OtherFormat struct {
	File   string // its path
	Format int    // 1 = of the version before
}

func (o *OtherFormat) Error() string {
	if o.Format > Format {
		return fmt.Sprintf("%s was written by a newer version of defx (format %d; this one reads format %d)", o.File, o.Format, Format)
	}
	return fmt.Sprintf("%s was written by an older version of defx (format %d; this one reads format %d)", o.File, o.Format, Format)
}

// problem returns an error with a hint.
func problem(cause error, hint string, args ...any) error {
	return diag.Errorf("", "%v", cause).WithHint(hint, args...)
}

// environment returns the name of the environment that the folder is of.
func (s *Dir) environment() string { return filepath.Base(s.path) }

// damaged returns the error that a file is damaged.
func (s *Dir) damaged(name string, cause error) error {
	return problem(&Damaged{filepath.Join(s.path, name), cause}, "defx state repair -e %s", s.environment())
}

// otherFormat returns the error that a file has a format which is not Format.
func (s *Dir) otherFormat(name string, format int) error {
	o := &OtherFormat{filepath.Join(s.path, name), format}
	if format > Format {
		return problem(o, "update defx; nothing was changed")
	}
	return problem(o, "defx state upgrade -e %s takes it over; nothing was changed", s.environment())
}

// MaxFile is the largest file of a state, in bytes.
const MaxFile = 4 << 30

// readRegular returns the content of a file.
func readRegular(path string) ([]byte, error) {
	return openfile.ReadOpened(func() (*os.File, error) { return openfile.Open(path) }, MaxFile)
}

// readFile decodes a file of the state into v. Files of version 1 have no field
// format.
func (s *Dir) readFile(name string, v any) error {
	raw, err := readRegular(filepath.Join(s.path, name))
	if err != nil {
		return err
	}
	var probe struct {
		Format *int `json:"format"`
	}
	if err := json.Unmarshal(raw, &probe); err != nil {
		return s.damaged(name, err)
	}
	if bytes.Equal(bytes.TrimSpace(raw), []byte("null")) {
		return s.damaged(name, errors.New("it holds nothing"))
	}
	if probe.Format == nil {
		return s.otherFormat(name, 1)
	}
	if *probe.Format != Format {
		return s.otherFormat(name, *probe.Format)
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return s.damaged(name, err)
	}
	return nil
}

// readHead reads head.json. Without the file nothing was ever written; anything
// else in the folder means that the file is missing.
func (s *Dir) readHead() (Head, error) {
	var h Head
	err := s.readFile(headName, &h)
	if errors.Is(err, fs.ErrNotExist) {
		if !s.hasOtherFiles() {
			return Head{}, nil
		}
		if err = s.readFile(headName, &h); errors.Is(err, fs.ErrNotExist) { // again: it may just have been written
			return Head{}, s.damaged(headName, errors.New("the file is missing"))
		}
	}
	if o := (*OtherFormat)(nil); errors.As(err, &o) && o.Format == 1 {
		var old headFormat1
		if s.readFormat1(headName, &old) != nil || old.Generation <= 0 || old.Object == "" {
			return Head{}, s.damaged(headName, errors.New("fields are missing"))
		}
	}
	if err != nil {
		return Head{}, err
	}
	if h.Lineage == "" || (h.Generation > 0) != (h.Object != "") || h.Generation < 0 {
		return Head{}, s.damaged(headName, errors.New("fields are missing"))
	}
	return h, nil
}

// hasOtherFiles reports whether there is a file that is written after the head.
func (s *Dir) hasOtherFiles() bool {
	for _, name := range []string{leasesName, oldestName, objectsName} {
		if _, err := os.Lstat(filepath.Join(s.path, name)); err == nil {
			return true
		}
	}
	return false
}

// readOldest reads oldest.json. Without the file nothing was removed from the history.
func (s *Dir) readOldest() (Oldest, error) {
	var o Oldest
	err := s.readFile(oldestName, &o)
	if errors.Is(err, fs.ErrNotExist) {
		return Oldest{}, nil
	}
	if err == nil && (o.Generation <= 0 || o.Object == "") {
		err = s.damaged(oldestName, errors.New("fields are missing"))
	}
	return o, err
}

// verify checks every file of the state, once for each Dir: a damaged file is
// found by every command, not only by the one that happens to need it.
func (s *Dir) verify(ctx context.Context) error {
	s.verifyMu.Lock()
	defer s.verifyMu.Unlock()
	if s.verified {
		return nil
	}
	h, err := s.readHead()
	if err != nil {
		return err
	}
	if h.IsZero() {
		return nil
	}
	if _, err := s.readLeases(); err != nil {
		return err
	}
	oldest, err := s.readOldest()
	if err != nil {
		return err
	}
	if err := s.verifyJournal(); err != nil {
		return err
	}
	if err := s.verifyModules(); err != nil {
		return err
	}
	known := s.loadVerified()
	packs, grown, err := s.verifyPacks(ctx, known.Packs)
	if err != nil {
		return err
	}
	if grown && known.Head == h.Object && known.Oldest == oldest && len(h.Intents) == 0 {
		s.verified = true
		return nil
	}
	until := known.Head // its history was verified, and no pack has vanished since
	if !grown || known.Oldest != oldest {
		until = ""
	}
	if err := s.verifyReferences(ctx, h, oldest, until); err != nil {
		if now, headErr := s.readHead(); headErr == nil && !now.Equal(h) {
			return nil // it was changed meanwhile: the next call verifies it
		}
		return err
	}
	s.storeVerified(verifiedState{Packs: packs, Head: h.Object, Oldest: oldest})
	s.verified = true
	return nil
}

// unverified is a Dir whose head is read without verifying it first.
type unverified struct{ *Dir }

func (u unverified) Head(context.Context) (Head, error) { return u.readHead() }

// verifyReferences fails if an object is missing to which the head, or one of the
// generations in its history since the object until, refers.
func (s *Dir) verifyReferences(ctx context.Context, h Head, oldest Oldest, until digest.Digest) error {
	needed := map[digest.Digest]bool{oldest.Object: true, oldest.Applies: true}
	for _, i := range h.Intents {
		needed[i.Detail] = true
	}
	if h.Object != "" {
		list, err := history(ctx, s, h, oldest, 0, until)
		if err == nil {
			var live map[digest.Digest]bool
			live, err = reachable(ctx, unverified{s}, h, list)
			for d := range live {
				needed[d] = true
			}
		}
		if errors.Is(err, ErrNotFound) {
			return s.damaged(objectsName, err)
		}
		if err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.refresh(); err != nil {
		return err
	}
	for d := range needed {
		if _, there := s.index[d]; d != "" && !there {
			return s.damaged(objectsName, fmt.Errorf("object %s is missing", d.Short()))
		}
	}
	return nil
}

// verifyJournal checks the journal of package apply.
func (s *Dir) verifyJournal() error {
	raw, err := readRegular(filepath.Join(s.path, JournalName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	n := 0
	for line := range bytes.Lines(raw) {
		n++
		if bytes.HasSuffix(line, []byte("\n")) && !json.Valid(line) { // the last line may be incomplete after a crash
			return s.damaged(JournalName, fmt.Errorf("line %d is no JSON", n))
		}
	}
	return nil
}

// packStat identifies the content of a pack that was verified, without reading it.
type packStat struct {
	Size  int64  `json:"size"`
	MTime int64  `json:"mtime"` // nanoseconds
	CTime int64  `json:"ctime"` // nanoseconds; it changes with every write, whatever the writer does to mtime
	Inode uint64 `json:"inode"`
}

// statPack returns the identity of a pack.
func (s *Dir) statPack(name string) (packStat, error) {
	info, err := os.Stat(filepath.Join(s.path, objectsName, name))
	if err != nil {
		return packStat{}, err
	}
	out := packStat{Size: info.Size(), MTime: info.ModTime().UnixNano()}
	out.CTime, out.Inode = fileIdentity(info)
	return out, nil
}

// verifyPacks reads each pack that is not among the verified ones, and compares
// its objects with their digests. It returns all packs, and whether all verified
// ones are still there.
func (s *Dir) verifyPacks(ctx context.Context, verified map[string]packStat) (packs map[string]packStat, grown bool, err error) {
	names, err := s.packs()
	if err != nil {
		return nil, false, err
	}
	packs, grown = map[string]packStat{}, verified != nil
	for _, name := range names {
		if ctx.Err() != nil {
			return nil, false, context.Cause(ctx)
		}
		stat, err := s.statPack(name)
		if err == nil && verified[name] != stat {
			_, err = s.verifyPack(name)
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue // merged and removed in the meantime
		}
		if err != nil {
			return nil, false, err
		}
		packs[name] = stat
	}
	for name, stat := range verified {
		grown = grown && packs[name] == stat
	}
	return packs, grown, nil
}

// verifyPack reads a pack and returns its valid objects. The error is about the
// first damage, if there is any.
func (s *Dir) verifyPack(name string) ([][]byte, error) {
	index, err := s.readIndex(name)
	if err != nil {
		return nil, err
	}
	raw, err := readRegular(filepath.Join(s.path, objectsName, name))
	if err != nil {
		return nil, err
	}
	var objects [][]byte
	var first error
	for _, e := range index {
		if e.Offset+e.Size <= int64(len(raw)) {
			if o := raw[e.Offset : e.Offset+e.Size]; digest.Bytes(o) == e.Digest {
				objects = append(objects, o)
				continue
			}
		}
		if first == nil {
			first = s.damaged(filepath.Join(objectsName, name), fmt.Errorf("object %s does not have its digest", e.Digest.Short()))
		}
	}
	return objects, first
}

// verifiedKey returns the key under which verified packs are remembered; ok is false if they are not.
func (s *Dir) verifiedKey() (key digest.Digest, ok bool) {
	path, err := filepath.Abs(s.path)
	if s.VerifiedCache == nil || err != nil {
		return "", false
	}
	key, err = digest.Of("verified state/1", path)
	return key, err == nil
}

// verifiedState is what was verified before. A wrong one only weakens the search
// for damage: whatever is read is compared with its digest.
type verifiedState struct {
	Packs  map[string]packStat `json:"packs"`
	Head   digest.Digest       `json:"head"`
	Oldest Oldest              `json:"oldest"`
}

// loadVerified returns what was verified before: nothing if it cannot be read.
func (s *Dir) loadVerified() verifiedState {
	var out verifiedState
	if key, ok := s.verifiedKey(); ok {
		if raw, _, _ := s.VerifiedCache.Find(key, nil); raw == nil || json.Unmarshal(raw, &out) != nil {
			return verifiedState{}
		}
	}
	return out
}

// storeVerified remembers what was verified. A failure only costs time.
func (s *Dir) storeVerified(v verifiedState) {
	if key, ok := s.verifiedKey(); ok {
		if raw, err := json.Marshal(v); err == nil {
			s.VerifiedCache.Store(key, nil, raw)
		}
	}
}
