package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/admin/access"
	"flexworker/internal/database"
	"flexworker/internal/flex"
	"flexworker/internal/outbox"
	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/pgtest"
	"flexworker/migrations"
)

const (
	actToken  = "a-token-that-acts-000000"
	lookToken = "a-token-that-looks-00000"
	proxy     = "10.0.0.7"
	sidA      = "KD0000000000000000000000000000000a"
	workspace = "WS00000000000000000000000000000002"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

var migrated = pgtest.NewTemplate(migrations.Up)

// A rig is the API on a database of its own, in which no loop runs.
type rig struct {
	pool  *pgxpool.Pool
	store *outbox.Store
	http  http.Handler
	spec  *spec
	acts  string // ADMIN_TOKEN
	flex  flexShows
	log   bytes.Buffer
	// backlog is what the worker has counted.
	counted time.Time
}

// flexShows is what Flex and TaskRouter show to who asks.
type flexShows struct {
	operator.Flex
	fetched flex.Outcome
	tasks   []flex.Task
	err     error // of settings that do not let Flex be asked

	channels []flex.ChannelState
	closes   flex.Kind // what becomes of a close
}

func (f *flexShows) Channels(context.Context, string) ([]flex.ChannelState, error) {
	return f.channels, nil
}

func (f *flexShows) CloseChannel(context.Context, string, string) flex.Outcome {
	return flex.Outcome{Kind: f.closes, Message: "a message"}
}

func (f *flexShows) Fetch(context.Context, string) flex.Outcome { return f.fetched }

func (f *flexShows) SearchTasks(context.Context, string, string, []string) ([]flex.Task, error) {
	return f.tasks, nil
}

func (f *flexShows) Events(context.Context, string, string, []string, time.Time, time.Time) ([]flex.Task, bool, error) {
	return f.tasks, false, nil
}

func newRig(t testing.TB) *rig {
	t.Helper()
	return newRigOn(t, migrated.NewPool(t, database.ForLoops))
}

func newRigOn(t testing.TB, pool *pgxpool.Pool) *rig {
	t.Helper()
	return newRigReading(t, pool, pool)
}

// newRigReading answers questions through a pool of their own.
func newRigReading(t testing.TB, pool, reads *pgxpool.Pool) *rig {
	t.Helper()
	trusted, err := access.ParseProxies(proxy)
	if err != nil {
		t.Fatal(err)
	}
	g := &rig{pool: pool, store: outbox.NewStore(pool, "w1", time.Second, "interaction_request"), spec: readSpec(t), acts: actToken, counted: time.Now()}
	log := slog.New(slog.NewTextHandler(&g.log, nil))
	who := access.New(access.Config{Token: func() string { return g.acts }, ReadToken: func() string { return lookToken }, Trusted: trusted, Log: log})
	asks := func() (operator.Flex, time.Duration, error) { return &g.flex, time.Minute, g.flex.err }
	g.http = who.Protect(New(Config{Access: who, Desk: operator.NewDesk(pool, operator.Caller{}, asks).ReadingFrom(reads), Log: log,
		Backlog: func() ([]operator.Backlog, time.Time) {
			return []operator.Backlog{{State: "pending", Requests: 2, Oldest: 1500 * time.Millisecond}}, g.counted
		}}))
	return g
}

// An answer is one of the API's, which the document allows.
type answer struct {
	code   int
	header http.Header
	text   string
	body   map[string]any // nil: it is no object
}

// kind is the last word of the type of a problem; "": it is none.
func (a answer) kind() string {
	kind, _ := a.body["type"].(string)
	return strings.TrimPrefix(kind, problemType)
}

// send sends a request as it is, and holds the answer against the document.
func (g *rig) send(t testing.TB, r *http.Request) answer {
	t.Helper()
	w := httptest.NewRecorder()
	g.http.ServeHTTP(w, r)
	if err := g.spec.holds(r, w); err != nil {
		t.Errorf("%s %s: %d %s: the document does not allow it: %v", r.Method, r.URL, w.Code, w.Body, err)
	}
	for header, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"} {
		if got := w.Header().Get(header); got != want {
			t.Errorf("%s %s: %s: %q", r.Method, r.URL, header, got)
		}
	}
	a := answer{code: w.Code, header: w.Header(), text: w.Body.String()}
	_ = json.Unmarshal(w.Body.Bytes(), &a.body) // the document may be no object
	return a
}

// as is a request with these headers: name, value, name, value. A body that is no string is sent as JSON.
func as(method, path string, body any, headers ...string) *http.Request {
	text, isText := body.(string)
	if !isText && body != nil {
		encoded, _ := json.Marshal(body)
		text = string(encoded)
	}
	r := httptest.NewRequest(method, "http://localhost"+Prefix+path, strings.NewReader(text))
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	return r
}

func (g *rig) get(t testing.TB, path string) answer {
	t.Helper()
	return g.send(t, as(http.MethodGet, path, nil, "Authorization", "Bearer "+lookToken))
}

func (g *rig) post(t testing.TB, path string, body any, headers ...string) answer {
	t.Helper()
	return g.send(t, as(http.MethodPost, path, body, append([]string{"Authorization", "Bearer " + actToken}, headers...)...))
}

// object is a body.
type object = map[string]any

// add stores a new request of this source.
func (g *rig) add(t testing.TB, id, source, payload string, change ...func(*request.Event)) {
	t.Helper()
	e := request.Event{
		Message:   request.Message{Stream: "REQUESTS", Subject: "interactions.requests." + source, Source: source, Sequence: 1 << 60, Time: time.Now()},
		RequestID: id, Request: []byte(payload),
	}
	e.Raw = e.Request
	for _, f := range change {
		f(&e)
	}
	if added, err := g.store.Add(t.Context(), e); err != nil || added != outbox.Accepted {
		t.Fatal(id, added, err)
	}
}

// plain is a payload with a workspace.
const plain = `{"channel":{"type":"sms"},"routing":{"properties":{"workspace_sid":"` + workspace + `"}}}`

// uncertain makes a pending request one that waits for a person.
func (g *rig) uncertain(t testing.TB, id string) {
	t.Helper()
	pgtest.Exec(t, g.pool, `
		WITH moved AS (
			UPDATE outbox SET state = 'uncertain', attempt = attempt + 1, attempt_began_at = now(), uncertain_since = now(), due_at = now() + interval '1 hour',
			       for_person_since = now(), lookup_attribute = 'interaction_request', error_kind = 'timeout', error_message = 'no answer'
			 WHERE request_id = $1 RETURNING id, attempt)
		INSERT INTO outbox_attempts (outbox_id, kind, number, worker, started_at, outcome, error, applied)
		SELECT id, 'attempt', attempt, 'w1', now(), 'uncertain', 'no answer', true FROM moved`, id)
}

// abandoned makes a pending request one that was given up.
func (g *rig) abandoned(t testing.TB, ids ...string) {
	t.Helper()
	pgtest.Exec(t, g.pool, `
		UPDATE outbox SET state = 'abandoned', attempt = 1, due_at = NULL, error_kind = 'http_503', settled_at = clock_timestamp(), published_at = clock_timestamp()
		 WHERE request_id = ANY ($1)`, ids)
}

func keyed(e *request.Event) { e.LookupKey = flex.LookupKey(e.RequestID) }

// tag is the ETag of a request.
func (g *rig) tag(t testing.TB, id string) string {
	t.Helper()
	return g.get(t, "/requests/"+id).header.Get("ETag")
}

func (g *rig) state(t testing.TB, id string) string {
	t.Helper()
	return pgtest.One[string](t, g.pool, `SELECT state FROM outbox WHERE request_id = $1`, id)
}

// recorded are the acts of people, in their order.
func (g *rig) recorded(t testing.TB) string {
	t.Helper()
	return pgtest.One[string](t, g.pool, `SELECT coalesce(string_agg(concat_ws(' ', act, request_id, 'by', who), '; ' ORDER BY id), '') FROM outbox_acts`)
}

func (a answer) is(t testing.TB, code int, kind string) {
	t.Helper()
	if a.code != code || a.kind() != kind {
		t.Errorf("%d %s, want %d %q", a.code, a.text, code, kind)
	}
}

// has says whether a body has this text at a path of names.
func (a answer) has(t testing.TB, want any, path ...string) {
	t.Helper()
	var at any = a.body
	for _, name := range path {
		object, _ := at.(map[string]any)
		at = object[name]
	}
	if fmt.Sprint(at) != fmt.Sprint(want) {
		t.Errorf("%s is %v, want %v, in %s", strings.Join(path, "."), at, want, a.text)
	}
}

var errCannot = errors.New("TASKROUTER_URL is missing")

// takeKey is what a worker leaves that began an act so long ago and has not answered: a retry of given.
func (g *rig) takeKey(t testing.TB, key, ago string) {
	t.Helper()
	body, _ := json.Marshal(object{"why": "a test"})
	asked := sha256.Sum256([]byte("POST " + Prefix + "/requests/given/retry\n\n" + string(body)))
	pgtest.Exec(t, g.pool, `INSERT INTO outbox_idempotency_keys (key, asked, who, begun_at) VALUES ($1, $2, 'ann', clock_timestamp() - $3::text::interval)`, key, asked[:], ago)
}

// away is a rig whose Postgres cannot be reached.
func (g *rig) away(t testing.TB) *rig {
	t.Helper()
	return g.otherwise(t, func(config *pgxpool.Config) {
		config.ConnConfig.Port = 1
		config.ConnConfig.Fallbacks = nil
	})
}

// otherwise is a rig on the same database whose connections are configured otherwise.
func (g *rig) otherwise(t testing.TB, configure func(*pgxpool.Config)) *rig {
	t.Helper()
	return newRigOn(t, g.connected(t, configure))
}

// connected is a pool on the same database whose connections are configured otherwise.
func (g *rig) connected(t testing.TB, configure func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	config := g.pool.Config()
	configure(config)
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// blind is a rig whose questions take too long as soon as an act is recorded.
func (g *rig) blind(t testing.TB) *rig {
	t.Helper()
	return newRigReading(t, g.pool, g.connected(t, func(config *pgxpool.Config) {
		config.PrepareConn = func(ctx context.Context, conn *pgx.Conn) (bool, error) {
			var acted bool
			if err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM outbox_acts)`).Scan(&acted); err != nil || !acted {
				return true, err
			}
			return true, context.DeadlineExceeded
		}
	}))
}

// httptestServer serves a handler, and is its address.
func httptestServer(t *testing.T, h http.Handler) string {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return server.URL
}
