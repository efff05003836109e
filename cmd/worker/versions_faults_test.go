//go:build faults

package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"flexworker/internal/testing/flextest"
	"flexworker/internal/testing/natstest"
	"flexworker/internal/testing/pgtest"
)

// previousVersion is what this version follows: make faults takes the last tag, and before the first release the commit
// that last changed the schema.
var previousVersion = flag.String("previous", "", "tag or commit of the version before this one")

// previousWorker builds the worker of the version before from the repository.
func previousWorker(t *testing.T) string {
	t.Helper()
	if *previousVersion == "" {
		t.Fatal("-previous is missing: the tag or commit of the version before this one")
	}
	source, program := filepath.Join(t.TempDir(), "source"), filepath.Join(folder, "previous")
	for _, c := range [][]string{
		{"git", "clone", "-q", "--shared", "--no-checkout", filepath.Join("..", ".."), source},
		{"git", "-C", source, "checkout", "-q", *previousVersion},
		{"go", "-C", source, "build", "-buildvcs=false", "-ldflags", "-X main.version=previous", "-o", program, "./cmd/worker"},
	} {
		if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", c, err, out)
		}
	}
	return program
}

// TestTwoVersions: the version before and this one work on one database at once, under load and with calls that have to be
// found out about, which any of them may find out. First the old ones run on a schema that this version has made; then an
// old one runs while this version brings its schema up to date.
func TestTwoVersions(t *testing.T) {
	previous, now := previousWorker(t), plainWorker(t)
	for name, byThis := range map[string]bool{"this version's schema": true, "the schema of the version before": false} {
		t.Run(name, func(t *testing.T) {
			dsn := pgtest.NewDSN(t)
			up := now
			if !byThis {
				up = previous
			}
			migrate := exec.Command(up, "migrate", "up")
			migrate.Env = append(os.Environ(), "DATABASE_URL="+dsn)
			if out, err := migrate.CombinedOutput(); err != nil {
				t.Fatalf("migrate up: %v\n%s", err, out)
			}
			r := rigOfTwo(t, dsn)
			r.troubled()
			in := r.read()
			var fleet []*child
			start := func(program string, more ...string) {
				t.Helper()
				r.program = program
				w := r.command(r.environment(append(more, "UNCERTAIN_POLICY=hold")...), "run")
				r.says(w.address, "ok", 200)
				fleet = append(fleet, w)
			}
			start(previous)
			sending := r.load()
			in.goesOn()
			if byThis {
				start(now)
			} else {
				start(now, "MIGRATE=true")
			}
			start(previous)
			start(now)
			in.goesOn()
			in.goesOn()
			stopped(t, fleet[0]) // as a rollout ends
			stopped(t, fleet[2])
			in.goesOn()
			sent := sending.stop()
			r.settled(sent, 0)
			r.program = now
			r.types(r.environment(), typed{[]string{"audit"}, 0, nil})
			fmt.Printf("%s: %s beside this version: %d requests, %d uncertain attempts, none twice\n", t.Name(), *previousVersion, sent,
				r.count(`SELECT count(*) FROM outbox_attempts WHERE kind = 'attempt' AND outcome = 'uncertain'`))
		})
	}
}

// rigOfTwo is a rig on a schema as it is.
func rigOfTwo(t *testing.T, dsn string) *rig {
	t.Helper()
	r := &rig{t: t, nats: natstest.New(t, natstest.Options{}), flex: flextest.New(t), dsn: dsn}
	r.join(1)
	return r
}
