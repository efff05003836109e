package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/natstest"
)

// TestPowerLoss: the machine of a single NATS server loses its power. NATS acknowledges before it syncs, so the last
// messages of each stream are gone, with or without what it knew of the consumer, and their sequences are used again.
// What the worker had stored stands, what comes now is done once, and republish gives readers the lost results again.
func TestPowerLoss(t *testing.T) {
	t.Parallel()
	for name, consumers := range map[string]bool{"streams and consumers": false, "messages alone": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, synced := t.TempDir(), t.TempDir()
			r := rigWith(t, migrated.NewDSN(t), natstest.Options{StoreDir: store})
			cfg := r.unhurried()
			r.start(cfg)
			r.says(cfg.AdminAddr, "ok", 200)
			created := func(n int) {
				t.Helper()
				r.eventually(func() error {
					return expect.Is("created and published", r.count(`SELECT count(*) FROM outbox WHERE state = 'created' AND published_at IS NOT NULL`), n)
				})
			}
			const kept, gone, after = 20, 10, 20
			r.send("kept", 0, kept)
			created(kept)
			r.nats.Shutdown()
			if err := os.CopyFS(synced, os.DirFS(store)); err != nil {
				t.Fatal(err)
			}
			if err := r.nats.Restart(); err != nil {
				t.Fatal(err)
			}
			r.says(cfg.AdminAddr, "ok", 200)
			r.send("gone", 0, gone)
			created(kept + gone)
			r.nats.Shutdown()
			putBack(t, store, synced, consumers)
			if err := r.nats.Restart(); err != nil {
				t.Fatal(err)
			}
			r.says(cfg.AdminAddr, "ok", 200)
			stream, err := r.js.Stream(t.Context(), requestsStream)
			if err != nil {
				t.Fatal(err)
			}
			if has := stream.CachedInfo().State.LastSeq; has != kept {
				t.Fatalf("the stream's last message is %d, want %d: nothing was lost", has, kept)
			}
			r.send("after", 0, after) // under the sequences of what is gone
			created(kept + gone + after)
			r.types(r.environment(), typed{strings.Fields("republish --where --settled-within 1h --yes --why lost --by ann"), 0, nil})
			r.read().balanced(kept + gone + after)
			r.types(r.environment(), typed{[]string{"audit"}, 0, nil})
		})
	}
}

// putBack makes the store what it was when it was synced; with consumers, but for what NATS knows of them.
func putBack(t *testing.T, store, synced string, consumers bool) {
	t.Helper()
	const part = "jetstream"
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	newer := t.TempDir()
	must(os.CopyFS(newer, os.DirFS(store)))
	must(os.RemoveAll(filepath.Join(store, part)))
	must(os.CopyFS(filepath.Join(store, part), os.DirFS(filepath.Join(synced, part))))
	if !consumers {
		return
	}
	known, err := filepath.Glob(filepath.Join(newer, part, "*", "streams", "*", "obs"))
	must(err)
	if len(known) == 0 {
		t.Fatal("NATS keeps no consumer there")
	}
	for _, from := range known {
		inside, err := filepath.Rel(newer, from)
		must(err)
		must(os.RemoveAll(filepath.Join(store, inside)))
		must(os.CopyFS(filepath.Join(store, inside), os.DirFS(from)))
	}
}
