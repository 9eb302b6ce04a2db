package main

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// setGroups leaves this thread one group alone. (syscall.Setgroups would change every thread.)
func setGroups(gid int32) error {
	list := [1]int32{gid}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, 1, uintptr(unsafe.Pointer(&list[0])), 0); errno != 0 {
		return errno
	}
	return nil
}
