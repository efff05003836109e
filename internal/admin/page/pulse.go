package page

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"flexworker/internal/outbox/operator"
)

// watched is a request that a browser looks at: when it was last asked for and read, and its mark.
type watched struct {
	asked, read time.Time
	mark        string
}

// watch is the mark of these requests, each as it was no longer than freshFor ago. What there is not has none.
func (m *memory) watch(ctx context.Context, desk *operator.Desk, ids ...string) (string, error) {
	if err := desk.MayLook(); err != nil {
		return "", err
	}
	now := time.Now()
	m.mu.Lock()
	var others []string
	for other, w := range m.watching {
		if now.Sub(w.asked) > watchFor {
			delete(m.watching, other)
		} else if !slices.Contains(ids, other) && len(others) < watchMost-1 {
			others = append(others, other)
		}
	}
	if m.watching == nil {
		m.watching = map[string]watched{}
	}
	fresh := true
	marks := make(map[string]string, len(ids))
	for _, id := range ids {
		known := m.watching[id]
		fresh = fresh && now.Sub(known.read) < m.freshFor
		marks[id] = known.mark
		if len(m.watching) < watchMost {
			m.watching[id] = watched{asked: now, read: known.read, mark: known.mark}
		}
	}
	changes := m.changes
	m.mu.Unlock()
	if !fresh {
		var err error
		if marks, err = desk.Marks(ctx, append(others, ids...)); err != nil {
			return "", err
		}
		m.mu.Lock()
		for other, w := range m.watching {
			if mark, ok := marks[other]; (ok || slices.Contains(ids, other)) && m.changes == changes {
				m.watching[other] = watched{asked: w.asked, read: now, mark: mark}
			}
		}
		m.mu.Unlock()
	}
	all := make([]string, len(ids))
	for i, id := range ids {
		all[i] = marks[id]
	}
	return strings.Join(all, "."), nil
}

// pulse says what has changed, by the mark of each part.
func (v *visit) pulse() error {
	m, err := v.page.memory.at(v.ctx(), v.desk)
	if err != nil {
		return err
	}
	marks := maps.Clone(m.marks)
	if m.standing.Away {
		marks["away"] = awaySaid(m.standing) + "."
	} else if err := v.watched(marks); err != nil {
		s, away := v.away()
		if !away {
			return err
		}
		marks["away"] = awaySaid(s) + "."
	}
	body, err := json.Marshal(marks)
	if err != nil {
		return err
	}
	etag := `"` + hash(string(body)) + `"`
	v.w.Header().Set("ETag", etag)
	if v.r.Header.Get("If-None-Match") == etag {
		v.w.WriteHeader(http.StatusNotModified)
		return nil
	}
	v.w.Header().Set("Content-Type", "application/json")
	_, _ = v.w.Write(body) // a browser that hung up needs no answer
	return nil
}

// watched adds the marks of the requests that the address names.
func (v *visit) watched(marks map[string]string) error {
	for of, name := range map[string]string{"id": "request", "done": "done", "request": "those"} {
		ids := v.r.URL.Query()[of]
		if len(ids) == 0 {
			continue
		}
		mark, err := v.page.memory.watch(v.ctx(), v.desk, ids[:min(len(ids), thoseMost)]...)
		if err != nil {
			return err
		}
		marks[name] = mark
	}
	return nil
}
