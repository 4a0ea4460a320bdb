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
		Long:              "Print the version of defx and of the Go that built it.\n\n" + exitCodes,
		Example:           "  defx version\n  defx version --json",
		Args:              arguments(0, 0),
		ValidArgsFunction: noFiles,
		RunE: func(*cobra.Command, []string) error {
			v := version
			if info, ok := debug.ReadBuildInfo(); ok && v == "" {
				v = info.Main.Version
			}
			if v == "" {
				v = "(devel)"
			}
			if o.json {
				return printJSON(os.Stdout, map[string]string{"apiVersion": "defx/v1", "kind": "Version", "version": v, "go": runtime.Version(),
					"platform": runtime.GOOS + "/" + runtime.GOARCH})
			}
			fmt.Printf("defx %s (%s, %s/%s)\n", v, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return nil
		},
	}
}
