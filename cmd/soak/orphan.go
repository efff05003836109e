package main

import (
	"os/exec"
	"runtime"
	"sync"
)

// starter starts processes from one thread that lives as long as this program:
// on Linux they end with the thread that started them, also when this program
// is killed.
var starter = sync.OnceValue(func() chan<- func() {
	starts := make(chan func())
	go func() {
		runtime.LockOSThread()
		for start := range starts {
			start()
		}
	}()
	return starts
})

// startProcess starts a process that does not outlive this program, and that an
// interrupt typed at a terminal does not reach.
func startProcess(cmd *exec.Cmd) error {
	cmd.SysProcAttr = orphanless()
	started := make(chan error)
	starter() <- func() { started <- cmd.Start() }
	return <-started
}
