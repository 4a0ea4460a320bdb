package openfile

import (
	"os"
	"strconv"
	"syscall"
)

// kernelMagics are the types of file systems whose files the kernel makes up.
var kernelMagics = map[int64]bool{
	0x9fa0:     true, // proc
	0x62656572: true, // sysfs
	0x64626720: true, // debugfs
	0x74726163: true, // tracefs
	0x73636673: true, // securityfs
	0x62656570: true, // configfs
	0x27e0eb:   true, // cgroup
	0x63677270: true, // cgroup2
	0xcafe4a11: true, // bpf
	0x6e736673: true, // nsfs
	0xde5e81e4: true, // efivarfs
	0x1cd1:     true, // devpts
}

// kernelFileSystem reports whether an open file is on a file system of the kernel.
func kernelFileSystem(f *os.File) bool {
	var s syscall.Statfs_t
	return syscall.Fstatfs(int(f.Fd()), &s) == nil && kernelMagics[int64(uint32(s.Type))]
}

// realPath returns the path of an open file without links; "" if it is unknown.
func realPath(f *os.File) string {
	path, _ := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(f.Fd())))
	return path
}
