package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"

	"flexworker/internal/testing/alone"
	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/flextest"
	"flexworker/internal/testing/pgtest"
)

// disk is a small file system in memory, which the test can fill up.
type disk struct{ dir string }

func newDisk(t *testing.T, mib int) disk {
	t.Helper()
	dir, err := os.MkdirTemp("", "flexworker-disk-")
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("flexworker", dir, "tmpfs", 0, fmt.Sprintf("size=%dm,mode=0777", mib)); err != nil {
		t.Fatalf("mount %s: %v", dir, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
		_ = os.Remove(dir) // empty now
	})
	return disk{dir}
}

func (d disk) ballast() string { return filepath.Join(d.dir, "ballast") }

// fill takes all the space that is left.
func (d disk) fill() error {
	f, err := os.Create(d.ballast())
	if err != nil {
		return err
	}
	block := make([]byte, 4096)
	for err == nil {
		_, err = f.Write(block)
	}
	if !errors.Is(err, unix.ENOSPC) {
		return errors.Join(err, f.Close())
	}
	return f.Close()
}

// empty gives the space back.
func (d disk) empty() error { return os.Remove(d.ballast()) }

// TestDiskFull: Postgres's disk is full, for its tables (53100) or for all, where it ends itself when it cannot write its
// log. No message is acked whose row is not there, no call is made without a committed claim, the worker is not ready and
// lives, and all goes on when there is space again.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	for name, world := range map[string]func(t *testing.T) (*rig, outage){
		"tables": func(t *testing.T) (*rig, outage) {
			d := newDisk(t, 48)
			r := rigOn(t, onDisk(t, pgtest.NewServer(t), d))
			return r, outage{begin: d.fill, end: d.empty}
		},
		"everything": func(t *testing.T) (*rig, outage) {
			d := newDisk(t, 192)
			server := pgtest.NewServerWith(t, pgtest.Options{Dir: filepath.Join(d.dir, "postgres"), Settings: map[string]string{"min_wal_size": "32MB", "max_wal_size": "64MB"}})
			r := rigOn(t, server.DSN("postgres"))
			return r, outage{begin: func() error {
				if err := d.fill(); err != nil {
					return err
				}
				// Each switch wants a new file for the log. Without one the server ends.
				expect.Eventually(t, func() error {
					if server.Running() {
						_ = r.count(`SELECT 0 FROM pg_switch_wal(), pg_logical_emit_message(false, 'full', 'disk')`)
					}
					return expect.Is("postgres runs", server.Running(), false)
				})
				return nil
			}, end: func() error {
				if err := d.empty(); err != nil {
					return err
				}
				if !server.Running() { // it could not write its log: whoever runs it starts it again
					return server.Restart(t.Context())
				}
				return nil
			}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if !alone.In(t, unix.CLONE_NEWNS) {
				return
			}
			r, full := world(t)
			full.word = "database"
			end := full.end
			full.end = func() error {
				r.acked()
				return end()
			}
			r.survive(full)
			r.uncounted()
		})
	}
}

// onDisk makes a database whose tables are on a disk of their own, and returns its address.
func onDisk(t *testing.T, server *pgtest.Server, d disk) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), server.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(d.dir, "tables")
	for _, sql := range []string{
		fmt.Sprintf(`COPY (SELECT 1) TO PROGRAM 'cat >/dev/null && mkdir %s'`, dir), // by the server's user; whoever does not read what is copied breaks the pipe
		fmt.Sprintf(`CREATE TABLESPACE small LOCATION '%s'`, dir),
		`CREATE DATABASE small TABLESPACE small`,
	} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	return server.DSN("small")
}

// acked wants a row for every message that the consumer does not wait for any more. While Postgres does not answer it says nothing.
func (r *rig) acked() {
	r.t.Helper()
	c, err := r.js.Consumer(r.t.Context(), "INTERACTION_REQUESTS", "interaction-worker")
	if err != nil {
		r.t.Fatal(err)
	}
	info := c.CachedInfo()
	acked := int(info.Delivered.Stream) - info.NumAckPending
	if rows := r.count(`SELECT count(*) FROM outbox`); rows >= 0 && acked > rows {
		r.t.Errorf("%d messages are acked, and there are %d rows", acked, rows)
	}
}

// TestNoFileDescriptors: a worker may open nothing any more, and its connections to Flex and Postgres are cut. It calls nobody
// and acks nothing that is not stored; it goes on when it may, and no request has lost an attempt.
func TestNoFileDescriptors(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	in := r.read()
	const atOnce = 10
	w := r.command(r.environment(unhurriedCalls, fmt.Sprintf("FLEX_CONCURRENCY=%d", atOnce)), "run")
	r.says(w.address, "ok", 200)
	r.send("before", 0, 20)
	in.balanced(20)

	pid := w.cmd.Process.Pid
	var may unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &may); err != nil {
		t.Fatal(err)
	}
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: may.Max}, nil); err != nil { // what is open stays
		t.Fatal(err)
	}
	r.flex.Down() // what rests is closed
	if err := r.flex.Up(); err != nil {
		t.Fatal(err)
	}
	r.send("without", 0, 50)
	r.says(w.address, "unreachable", 503) // asked on a connection that is there
	r.asWriter(`SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`)
	r.send("blind", 0, 50)
	r.says(w.address, "database", 503)
	expect.Eventually(t, func() error { // the log may be a moment behind
		return expect.Is("the log says why", strings.Contains(w.log.String(), "too many open files"), true)
	})
	expect.Eventually(t, func() error { return r.pool.Ping(t.Context()) })
	r.acked()
	// A call may have had a connection that was made before and not used: there are no more of these than calls at a time.
	if n, most := r.flex.Calls().Created, 20+atOnce; n > most {
		t.Errorf("%d of 120 are created, at most %d had a connection", n, most)
	}

	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &may, nil); err != nil {
		t.Fatal(err)
	}
	in.balanced(120)
	r.says(w.address, "ok", 200)
	r.uncounted()
	stopped(t, w)
}

// TestReadOnlyFileSystem: a worker writes no file. It starts, works and ends in order where it cannot.
func TestReadOnlyFileSystem(t *testing.T) {
	t.Parallel()
	if !alone.In(t, unix.CLONE_NEWNS) {
		return
	}
	r := newRig(t)
	in := r.read()
	w := r.commandOf(r.environment(), exec.Command("unshare", "--mount", "sh", "-c",
		`mount -o remount,bind,ro / && ! touch /flexworker 2>/dev/null && exec "$0" run`, os.Args[0]))
	r.says(w.address, "ok", 200)
	r.send("read-only", 0, 20)
	in.balanced(20)
	stopped(t, w)
}

// TestLogDiskFull: the disk of the log takes nothing. Requests wait for no line.
func TestLogDiskFull(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	in := r.read()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0) // each write is refused: no space left on device
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = full.Close() })
	process := exec.Command(os.Args[0], "run")
	process.Stdout, process.Stderr = full, full
	w := r.commandOf(append(r.environment(), "LOG_LEVEL=debug"), process)
	r.says(w.address, "ok", 200)
	r.flex.Set(flextest.Settings{Latency: 5 * time.Millisecond})
	r.send("unheard", 0, 500)
	in.balanced(500)
	stopped(t, w)
}
