package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the linker for releases.
var version = ""

func versionCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:               "version",
		Short:             "Print the version",
		Long:              `Print the version of defx and of the Go toolchain that built it.`,
		Example:           "  defx version\n  defx version --json",
		Args:              arguments(0, 0),
		ValidArgsFunction: noFiles,
		RunE: func(*cobra.Command, []string) error {
			if o.json {
				return printJSON(os.Stdout, map[string]string{"apiVersion": "defx/v1", "kind": "Version", "version": programVersion(), "go": runtime.Version(),
					"platform": runtime.GOOS + "/" + runtime.GOARCH})
			}
			fmt.Println(versionText())
			return nil
		},
	}
}

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
