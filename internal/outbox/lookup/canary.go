package lookup

import (
	"encoding/json"
	"sync"
	"time"

	"flexworker/internal/rawjson"
)

// CanaryKeys are keys of requests that this process has seen created, by which a search
// for several keys can be held: one that finds a canary key has understood the question
// for all of them. The zero value is ready.
type CanaryKeys struct {
	mu sync.Mutex
	// ripe is old enough to be listed by TaskRouter, young takes its place.
	ripe, young canaryKey
}

type canaryKey struct {
	key, workspace string
	at             time.Time // zero: none
}

const (
	// canaryAge bounds how old a canary key may be: its task may end, and is deleted
	// five minutes later.
	canaryAge = 4 * time.Minute
	// canaryRipe is how long one is kept before it serves: the latest created is
	// hardly ever listed yet.
	canaryRipe = 30 * time.Second
)

// Saw notes a request, by its lookup key and its text, whose interaction exists since now.
func (c *CanaryKeys) Saw(lookupKey string, body json.RawMessage, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if lookupKey == "" || !c.young.at.IsZero() && now.Sub(c.young.at) < canaryRipe {
		return
	}
	raw, _ := rawjson.Member(body, "routing", "properties", "workspace_sid")
	workspace, _ := rawjson.Text(raw)
	c.ripe, c.young = c.young, canaryKey{lookupKey, string(workspace), now}
}

// Key is the key of a task that surely was in that workspace lately; "" for none
// that this process knows of.
func (c *CanaryKeys) Key(workspace string, now time.Time) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, known := range []canaryKey{c.ripe, c.young} {
		if workspace != "" && known.workspace == workspace && now.Sub(known.at) <= canaryAge {
			return known.key
		}
	}
	return ""
}
