package flextest

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// What a server accepts unless Config says otherwise. The sids are put together
// so that nothing that looks for leaked secrets takes them for real.
const (
	AccountSID   = "AC" + "00000000000000000000000000000001"
	AuthToken    = "not-a-real-token"
	APIKey       = "SK" + "00000000000000000000000000000008"
	APISecret    = "not-a-real-secret"
	WorkspaceSID = "WS" + "00000000000000000000000000000002"
	WorkflowSID  = "WW" + "00000000000000000000000000000003"
)

// Config is what a server is started with. The zero Config is a strict server
// on a free port of 127.0.0.1 that answers 200.
type Config struct {
	Addr          string       // to listen on; "" is 127.0.0.1:0
	Credentials   []Credential // accepted; nil: AccountSID with AuthToken and APIKey with APISecret
	Workspaces    []string     // that exist; nil: every WS sid does
	KeyAttribute  string       // the task attribute of the lookup key; "" is interaction_request
	TestAttribute string       // the task attribute by which a test knows its calls; "" is test_id
	Keep          int          // what calls carried is kept for that many of them, events for twice as many; 0: all
	Seed          uint64       // of the dice that Rule.Share throws

	Settings   Settings
	TaskRouter TaskRouter
}

// Settings can be changed while the server runs.
type Settings struct {
	Status       int           `json:"status"`        // of a good create: 0 is 200; 201 was usual once
	Latency      time.Duration `json:"latency"`       // before each create is dealt with
	Concurrency  int           `json:"concurrency"`   // creates in flight, 429 beyond; 0: no limit
	RetryAfter   string        `json:"retry_after"`   // header of that 429; "": none
	Drip         time.Duration `json:"drip"`          // between the bytes of Drip and SlowBody; 0 is 1 s
	FetchTrouble Fault         `json:"fetch_trouble"` // met by every GET of an interaction, and of its channels
	CloseTrouble Fault         `json:"close_trouble"` // met by every POST that closes a channel
	SetupAfter   time.Duration `json:"setup_after"`   // until a channel is no longer being set up
	SetupTrouble Fault         `json:"setup_trouble"` // met by every GET of channels and participants
	SetupFates   SetupFates    `json:"setup_fates"`   // of what is created from now on
}

// Server imitates flex-api and taskrouter on one address.
type Server struct {
	cfg     Config
	addr    string
	http    *http.Server
	ledger  *ledger
	faults  faults
	limit   limit
	closing chan struct{} // closed by Close

	settings   atomic.Pointer[Settings]
	taskRouter atomic.Pointer[TaskRouter]
	access     atomic.Pointer[access]
	setup      atomic.Pointer[Setup]

	mu       sync.Mutex
	closed   bool
	listener net.Listener // nil while down
	hole     *hole        // non-nil while a black hole
	release  chan struct{}
	hijacked map[net.Conn]struct{}
	running  sync.WaitGroup // handlers and the accepting goroutine
}

// Start starts a server. Whoever starts it closes it.
func Start(cfg Config) (*Server, error) {
	if err := cfg.Settings.check(); err != nil {
		return nil, err
	}
	cfg.Addr = cmp.Or(cfg.Addr, "127.0.0.1:0")
	cfg.KeyAttribute, cfg.TestAttribute = cmp.Or(cfg.KeyAttribute, "interaction_request"), cmp.Or(cfg.TestAttribute, "test_id")
	if cfg.Credentials == nil {
		cfg.Credentials = []Credential{{AccountSID, AuthToken}, {APIKey, APISecret}}
	}
	s := &Server{
		cfg:      cfg,
		ledger:   newLedger(cfg.Keep),
		closing:  make(chan struct{}),
		release:  make(chan struct{}),
		hijacked: map[net.Conn]struct{}{},
	}
	s.faults.scripts = map[string][]plan{}
	s.faults.rand = rand.New(rand.NewPCG(cfg.Seed, 0))
	s.ledger.fates = rand.New(rand.NewPCG(cfg.Seed, 1))
	s.http = &http.Server{Handler: s, ErrorLog: log.New(io.Discard, "", 0)}
	s.Set(cfg.Settings)
	s.SetTaskRouter(cfg.TaskRouter)
	s.SetCredentials(cfg.Credentials...)
	s.SetSetup(Setup{})
	listener, err := net.Listen("tcp", cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("flextest: %w", err)
	}
	s.addr = listener.Addr().String()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serve(listener)
	return s, nil
}

// Addr is the address listened on, also while the server is down.
func (s *Server) Addr() string { return s.addr }

// URL is the base address of both hosts.
func (s *Server) URL() string { return "http://" + s.addr }

// Close ends every call, also those that hang, and returns when all that the
// server started is gone.
func (s *Server) Close() {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.closed = true
	close(s.closing)
	s.fillHole()
	for conn := range s.hijacked {
		_ = conn.Close()
	}
	s.mu.Unlock()
	_ = s.http.Close()
	s.running.Wait()
}

// Set replaces the settings. It panics when they are impossible, which is a
// mistake in the test.
func (s *Server) Set(settings Settings) {
	if err := settings.check(); err != nil {
		panic(err)
	}
	if settings.Status == 0 {
		settings.Status = http.StatusOK
	}
	if settings.Drip <= 0 {
		settings.Drip = time.Second
	}
	s.settings.Store(&settings)
}

// check says what is impossible in the settings.
func (s *Settings) check() error {
	if s.Status != 0 && (s.Status < 200 || s.Status > 299) {
		return fmt.Errorf("flextest: a good create is answered with a 2xx, not with %d", s.Status)
	}
	_, err := s.FetchTrouble.plan()
	if err == nil {
		_, err = s.CloseTrouble.plan()
	}
	_, failed := s.SetupTrouble.plan()
	return errors.Join(err, failed)
}

// Settings returns the settings in force.
func (s *Server) Settings() Settings { return *s.settings.Load() }

// ServeHTTP sends a call to the host that it means.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		panic(http.ErrAbortHandler)
	}
	s.running.Add(1)
	s.mu.Unlock()
	defer s.running.Done()

	switch path := r.URL.Path; {
	case path == "/v1/Interactions" && r.Method == http.MethodPost:
		s.create(w, r)
	case path == "/v1/Interactions":
		w.Header().Set("Allow", http.MethodPost)
		writeError(w, &refusal{http.StatusMethodNotAllowed, 20004, "Method not allowed"})
	case strings.HasPrefix(path, "/v1/Interactions/") && strings.Contains(path, "/Channels"):
		s.channels(w, r)
	case strings.HasPrefix(path, "/v1/Interactions/"):
		s.fetch(w, r)
	case path == "/v1/Configuration":
		s.configuration(w, r)
	case strings.HasPrefix(path, "/v1/Workspaces/"):
		s.askTaskRouter(w, r)
	case strings.HasPrefix(path, "/_control/"):
		s.control(w, r)
	case path == elsewhere:
		s.ledger.count(&s.ledger.calls.Redirected)
		s.ledger.violate(r.Method + " followed a redirect")
		writeError(w, &refusal{http.StatusNotFound, 20404, "Nobody was to come here"})
	default:
		notFound(w, path)
	}
}

// notFound answers 404 as Twilio does.
func notFound(w http.ResponseWriter, path string) {
	writeError(w, &refusal{http.StatusNotFound, 20404, "The requested resource " + path + " was not found"})
}
