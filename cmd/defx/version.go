package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the linker for releases.
var version = ""

func versionCommand(g *globalOptions) *cobra.Command {
	return &cobra.Command{
		Use:               "version",
		Short:             "Print the version",
		Long:              `Print the version of defx and of the Go toolchain that built it.`,
		Example:           "  defx version\n  defx version --json",
		Args:              arguments(0, 0),
		ValidArgsFunction: noFiles,
		RunE:              func(*cobra.Command, []string) error { return runVersion(g.view()) },
	}
}

func runVersion(v view) error {
	return v.show(versionDocument{newHeader("Version"), programVersion(), runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH})
}

// versionDocument is printed by version.
type versionDocument struct {
	header
	Version  string `json:"version"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func (versionDocument) print(p *printer) { p.println(versionText()) }

// programVersion returns the version set by the linker, else that of the module.
func programVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

func versionText() string {
	return fmt.Sprintf("defx %s (%s, %s/%s)", programVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
