package flextest

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// duration is a time.Duration that is written "1m30s".
type duration time.Duration

func (d duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

func (d *duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	*d = duration(parsed)
	return err
}

// The two settings structs, with durations as text. Decoding changes only what
// is named; an unknown name is an error.
type (
	plainSettings  Settings
	settingsAsText struct {
		*plainSettings
		Latency    *duration `json:"latency"`
		SetupAfter *duration `json:"setup_after"`
		Drip       *duration `json:"drip"`
	}
	plainTaskRouter  TaskRouter
	taskRouterAsText struct {
		*plainTaskRouter
		Lag      *duration `json:"lag"`
		EventLag *duration `json:"event_lag"`
		After    *duration `json:"after"`
		Life     *duration `json:"life"`
	}
)

func (s *Settings) asText() settingsAsText {
	return settingsAsText{(*plainSettings)(s), (*duration)(&s.Latency), (*duration)(&s.SetupAfter), (*duration)(&s.Drip)}
}

func (set *TaskRouter) asText() taskRouterAsText {
	return taskRouterAsText{
		(*plainTaskRouter)(set), (*duration)(&set.Lag), (*duration)(&set.EventLag), (*duration)(&set.After), (*duration)(&set.Life),
	}
}

// MarshalJSON writes durations as text.
func (s Settings) MarshalJSON() ([]byte, error) { return json.Marshal(s.asText()) }

// UnmarshalJSON changes what is named.
func (s *Settings) UnmarshalJSON(text []byte) error { to := s.asText(); return decode(text, &to) }

// MarshalJSON writes durations as text.
func (set TaskRouter) MarshalJSON() ([]byte, error) { return json.Marshal(set.asText()) }

// UnmarshalJSON changes what is named.
func (set *TaskRouter) UnmarshalJSON(text []byte) error { to := set.asText(); return decode(text, &to) }

// decode reads JSON and refuses names that do not exist.
func decode(text []byte, to any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	return d.Decode(to)
}

// control answers everything below /_control/.
func (s *Server) control(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	switch r.Method + " " + strings.TrimPrefix(r.URL.Path, "/_control/") {
	case "GET healthz":
		_, _ = io.WriteString(w, "ok\n")
	case "GET ledger":
		s.streamLedger(w, r)
	case "GET counts":
		writeJSON(w, s.Calls())
	case "GET duplicates":
		writeJSON(w, s.Duplicates())
	case "GET violations":
		writeJSON(w, s.Violations())
	case "DELETE faults":
		s.Clear()
	case "POST release":
		s.Release()
	case "GET settings":
		writeJSON(w, s.Settings())
	case "GET taskrouter":
		writeJSON(w, s.TaskRouter())
	default:
		known, err := s.command(r, body)
		switch {
		case !known:
			http.NotFound(w, r)
		case err != nil:
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	}
}

// writeJSON sends a value.
func writeJSON(w http.ResponseWriter, value any) {
	body, err := json.Marshal(value)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	write(w, http.StatusOK, jsonType, append(body, '\n'))
}

// streamLedger sends the ledger as JSON lines, after the n-th entry when ?after
// says so.
func (s *Server) streamLedger(w http.ResponseWriter, r *http.Request) {
	after, _ := strconv.Atoi(r.URL.Query().Get("after"))
	w.Header().Set("Content-Type", "application/jsonl")
	lines := json.NewEncoder(w)
	for {
		part := s.Since(after, 1000)
		if len(part) == 0 {
			return
		}
		for i := range part {
			if lines.Encode(&part[i]) != nil {
				return // the client has gone
			}
		}
		after = part[len(part)-1].N
	}
}
