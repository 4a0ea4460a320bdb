package terraform

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/defx-dev/defx/internal/poll"
	"github.com/hashicorp/terraform-exec/tfexec"
)

// Set by tests to shorter times.
var (
	interruptDelay = 300 * time.Millisecond // between the interrupt of a command that changes nothing and its end by SIGKILL
	stallTimeout   = 2 * time.Minute        // after which a command without progress is ended
)

// StalledError is returned for a command that made no progress for some time.
type StalledError struct{ After time.Duration }

func (e *StalledError) Error() string {
	return fmt.Sprintf("no progress for %s: the download or the provider has stalled", e.After)
}

// environment returns the environment for Terraform: that of this process without
// the variables by which defx controls Terraform itself.
func environment(cache string) map[string]string {
	env := map[string]string{}
	for _, kv := range os.Environ() {
		k, v, _ := strings.Cut(kv, "=")
		env[k] = v
	}
	env = tfexec.CleanEnv(env)
	if cache != "" {
		env["TF_PLUGIN_CACHE_DIR"] = cache
	}
	env["CHECKPOINT_DISABLE"] = "1"
	if env["GOGC"] == "" { // Terraform and providers run for seconds: collecting less needs a fifth more memory and saves a quarter of their time
		env["GOGC"] = "400"
	}
	return env
}

// initModule runs terraform init in dir, which downloads the providers that its
// configuration requires. Temporary files of the download count as progress.
func initModule(ctx context.Context, program, dir, cache string) error {
	tmp, err := os.MkdirTemp(dir, ".download-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	env := environment(cache)
	env["TMPDIR"] = tmp
	_, err = runTerraform(ctx, program, dir, env, func() int64 { return dirSize(tmp) }, "init", "-no-color", "-input=false", "-backend=true", "-get=true", "-upgrade=false")
	return err
}

// runTerraform runs a command of Terraform that can be interrupted at any time, and
// returns its standard output. It ends the command when ctx ends, and with a
// StalledError when neither its output nor the value of progress has changed for
// stallTimeout.
func runTerraform(ctx context.Context, program, dir string, env map[string]string, progress func() int64, args ...string) ([]byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var written atomic.Int64
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, io.MultiWriter(&stdout, counter{&written}), io.MultiWriter(&stderr, counter{&written})
	cmd.Env = []string{"TF_IN_AUTOMATION=1"}
	for k, v := range env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	cmd.SysProcAttr = ownGroup()
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = interruptDelay
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go cancelStalled(ctx, cancel, stallTimeout, func() int64 { return written.Load() + progress() })
	err := cmd.Wait()
	if ctx.Err() != nil {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // provider processes that are left
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, stderr.String())
	}
	return stdout.Bytes(), nil
}

// cancelStalled calls cancel with a StalledError when the value of progress has not
// changed for limit. It returns when ctx ends.
func cancelStalled(ctx context.Context, cancel context.CancelCauseFunc, limit time.Duration, progress func() int64) {
	last, since := progress(), time.Now()
	poll.Until(ctx, limit/20, func(context.Context) (bool, error) {
		if now := progress(); now != last {
			last, since = now, time.Now()
		}
		stalled := time.Since(since) > limit
		if stalled {
			cancel(&StalledError{limit})
		}
		return stalled, nil
	})
}

// counter adds the number of written bytes to n.
type counter struct{ n *atomic.Int64 }

func (c counter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}

// dirSize returns the total size of the files below dir.
func dirSize(dir string) (size int64) {
	filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			if info, err := d.Info(); err == nil {
				size += info.Size()
			}
		}
		return nil
	})
	return size
}
