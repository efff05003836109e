//go:build !linux

package main

import "syscall"

// orphanless does what can be done here: what is left when this program is
// killed has to be ended by hand.
func orphanless() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
