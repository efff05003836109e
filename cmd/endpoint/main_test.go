package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"strings"
	"testing"

	"flexworker/internal/testing/flextest"
)

// TestRun starts it as the compose file does, asks it, and stops it.
func TestRun(t *testing.T) {
	t.Setenv("ADDR", "127.0.0.1:0")
	t.Setenv("STATUS", "201")
	t.Setenv("RATE_LIMIT", "false")
	ctx, cancel := context.WithCancel(t.Context())
	lines, write := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- run(ctx, nil, slog.New(slog.NewJSONHandler(write, nil))); _ = write.Close() }()
	log := json.NewDecoder(lines)
	var started struct{ Msg, Address string }
	if err := log.Decode(&started); err != nil || started.Msg != "endpoint listens" {
		t.Fatalf("%+v %v", started, err)
	}
	calls, err := flextest.Remote{URL: "http://" + started.Address}.Calls(ctx)
	if err != nil || calls.Received != 0 {
		t.Errorf("%+v %v", calls, err)
	}
	t.Setenv("ADDR", started.Address)
	if err := run(ctx, []string{"healthcheck"}, nil); err != nil {
		t.Errorf("healthcheck: %v", err)
	}
	cancel()
	_, _ = io.Copy(io.Discard, io.MultiReader(log.Buffered(), lines))
	if err := <-done; err != nil {
		t.Errorf("stopped: %v", err)
	}
	if err := run(t.Context(), []string{"healthcheck"}, nil); err == nil {
		t.Error("the healthcheck of a stopped endpoint passed")
	}
}

func TestRunRefused(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewJSONHandler(&out, nil))
	if err := run(t.Context(), []string{"serve"}, log); err == nil || !strings.Contains(err.Error(), "healthcheck") {
		t.Errorf("got %v", err)
	}
	t.Setenv("LATENCY", "30")
	if err := run(t.Context(), nil, log); err == nil {
		t.Error("a duration without a unit was taken")
	}
	t.Setenv("LATENCY", "0s")
	t.Setenv("ADDR", "127.0.0.1:0")
	t.Setenv("STATUS", "500")
	if err := run(t.Context(), nil, log); err == nil || !strings.Contains(err.Error(), "2xx") {
		t.Errorf("got %v", err)
	}
	if out.Len() > 0 {
		t.Errorf("logged %s", out.String())
	}
}
