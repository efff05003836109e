package outbox

import (
	"sync"
	"time"

	"flexworker/internal/rawjson"
)

// witnesses are requests that this process has seen created, by which a search
// for several keys can be held: one that finds a witness has understood the
// question for all of them. The zero value is ready.
type witnesses struct {
	mu sync.Mutex
	// ripe is old enough to be listed by TaskRouter, young takes its place.
	ripe, young witness
}

type witness struct {
	lease Lease
	at    time.Time // zero: none
}

const (
	// witnessAge bounds how old a witness may be: its task may end, and is deleted
	// five minutes later.
	witnessAge = 4 * time.Minute
	// witnessRipe is how long one is kept before it serves: the latest created is
	// hardly ever listed yet.
	witnessRipe = 30 * time.Second
)

// saw notes a lease whose interaction exists since now.
func (w *witnesses) saw(l Lease, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case l.LookupKey == "":
	case w.young.at.IsZero():
		w.young = witness{l, now}
	case now.Sub(w.young.at) >= witnessRipe:
		w.ripe, w.young = w.young, witness{l, now}
	}
}

// key is the key of a task that surely was in that workspace lately; "" for none
// that this process knows of.
func (w *witnesses) key(workspace string, now time.Time) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range []witness{w.ripe, w.young} {
		raw, _ := rawjson.Member(c.lease.Request, "routing", "properties", "workspace_sid")
		if workspace != "" && !c.at.IsZero() && now.Sub(c.at) <= witnessAge && string(raw) == `"`+workspace+`"` {
			return c.lease.LookupKey
		}
	}
	return ""
}
