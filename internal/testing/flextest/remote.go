package flextest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
)

// Remote is a server in another process, by its control API. The zero Client
// is http.DefaultClient.
type Remote struct {
	URL    string // base address, e.g. http://127.0.0.1:9090
	Client *http.Client
}

// Inject sends a rule, or one of an Injection's other wishes.
func (r Remote) Inject(ctx context.Context, in Injection) error {
	return r.post(ctx, "faults", in)
}

// Clear ends all faults.
func (r Remote) Clear(ctx context.Context) error { return r.do(ctx, "DELETE", "faults", nil, nil) }

// Release lets the calls that hang go on.
func (r Remote) Release(ctx context.Context) error { return r.post(ctx, "release", nil) }

// Set replaces the settings.
func (r Remote) Set(ctx context.Context, set Settings) error { return r.post(ctx, "settings", set) }

// SetTaskRouter replaces how TaskRouter behaves.
func (r Remote) SetTaskRouter(ctx context.Context, set TaskRouter) error {
	return r.post(ctx, "taskrouter", set)
}

// SetAccess says who may come in; the zero Access puts back how it began.
func (r Remote) SetAccess(ctx context.Context, access Access) error {
	return r.post(ctx, "credentials", access)
}

// Act does something to tasks.
func (r Remote) Act(ctx context.Context, act TaskAct) error { return r.post(ctx, "tasks", act) }

// Calls returns the counters.
func (r Remote) Calls(ctx context.Context) (calls Calls, err error) {
	err = r.get(ctx, "counts", &calls)
	return calls, err
}

// Duplicates returns the keys that were created more than once.
func (r Remote) Duplicates(ctx context.Context) (keys []string, err error) {
	err = r.get(ctx, "duplicates", &keys)
	return keys, err
}

// Violations returns what clients did that no client may do.
func (r Remote) Violations(ctx context.Context) (list []string, err error) {
	err = r.get(ctx, "violations", &list)
	return list, err
}

// Ledger calls each for every entry after the n-th, as they arrive, until each
// returns an error.
func (r Remote) Ledger(ctx context.Context, after int, each func(Entry) error) error {
	return r.do(ctx, "GET", fmt.Sprintf("ledger?after=%d", after), nil, func(body io.Reader) error {
		for lines := json.NewDecoder(body); ; {
			var e Entry
			if err := lines.Decode(&e); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
			if err := each(e); err != nil {
				return err
			}
		}
	})
}

func (r Remote) get(ctx context.Context, path string, to any) error {
	return r.do(ctx, "GET", path, nil, func(body io.Reader) error { return json.NewDecoder(body).Decode(to) })
}

func (r Remote) post(ctx context.Context, path string, value any) error {
	body, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("flextest: %s: %w", path, err)
	}
	return r.do(ctx, "POST", path, body, nil)
}

// do makes one control call and lets read, when there is one, have the answer.
func (r Remote) do(ctx context.Context, method, path string, body []byte, read func(io.Reader) error) error {
	req, err := http.NewRequestWithContext(ctx, method, r.URL+"/_control/"+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("flextest: %w", err)
	}
	client := r.Client
	if client == nil {
		client = http.DefaultClient
	}
	res, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("flextest: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 1000))
		return fmt.Errorf("flextest: %s %s: %s: %s", method, path, res.Status, bytes.TrimSpace(text))
	}
	if read == nil {
		return nil
	}
	if err := read(res.Body); err != nil {
		return fmt.Errorf("flextest: %s: %w", path, err)
	}
	return nil
}
