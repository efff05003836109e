package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"flexworker/internal/testing/expect"
)

// TestTracesWanted: the standard switches decide, and what is not supported is named.
func TestTracesWanted(t *testing.T) {
	const somewhere = "OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318"
	for _, c := range []struct {
		env    string
		wanted bool
		why    string
	}{
		{"", false, ""},
		{somewhere, true, ""},
		{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://collector:4318/v1/traces", true, ""},
		{somewhere + " OTEL_SDK_DISABLED=true", false, ""},
		{somewhere + " OTEL_SDK_DISABLED=TRUE", false, ""},
		{somewhere + " OTEL_SDK_DISABLED=false", true, ""},
		{somewhere + " OTEL_SDK_DISABLED=", true, ""},
		{somewhere + " OTEL_TRACES_EXPORTER=none", false, ""},
		{somewhere + " OTEL_TRACES_EXPORTER=otlp", true, ""},
		{somewhere + " OTEL_TRACES_EXPORTER=", true, ""},
		{somewhere + " OTEL_TRACES_EXPORTER=console", false, "OTEL_TRACES_EXPORTER"},
		{somewhere + " OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf", true, ""},
		{somewhere + " OTEL_EXPORTER_OTLP_PROTOCOL=grpc", false, "OTEL_EXPORTER_OTLP_PROTOCOL"},
		{somewhere + " OTEL_EXPORTER_OTLP_PROTOCOL=http/json", false, "OTEL_EXPORTER_OTLP_PROTOCOL"},
		{somewhere + " OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=grpc", false, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"},
		{somewhere + " OTEL_EXPORTER_OTLP_PROTOCOL=grpc OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf", true, ""},
		{somewhere + " OTEL_SDK_DISABLED=true OTEL_EXPORTER_OTLP_PROTOCOL=grpc", false, ""},
	} {
		t.Run(c.env, func(t *testing.T) {
			for _, name := range []string{otelEndpoint, otelTracesEndpoint, otelDisabled, otelExporter, otelProtocol, otelTracesProtocol} {
				t.Setenv(name, "")
			}
			for _, variable := range strings.Fields(c.env) {
				name, value, _ := strings.Cut(variable, "=")
				t.Setenv(name, value)
			}
			wanted, why := tracesWanted()
			if named, _, _ := strings.Cut(why, " "); wanted != c.wanted || named != c.why {
				t.Errorf("wanted %v, because of %q", wanted, why)
			}
		})
	}
}

// TestTraces: spans go to a collector, are kept back by the standard switch, and are not sent by HTTP to a port for gRPC.
func TestTraces(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		more   string
		spans  bool
		says   string
		silent string
	}{
		"sent":     {more: "OTEL_TRACES_EXPORTER=otlp", spans: true, silent: "no traces are sent"},
		"disabled": {more: "OTEL_SDK_DISABLED=true", silent: "no traces are sent"},
		"grpc":     {more: "OTEL_EXPORTER_OTLP_PROTOCOL=grpc", says: "no traces are sent: only OTLP over HTTP is supported"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var posts atomic.Int64
			collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/v1/traces" {
					posts.Add(1)
				}
			}))
			t.Cleanup(collector.Close)
			r := newRig(t)
			w := r.command(r.environment("OTEL_EXPORTER_OTLP_ENDPOINT="+collector.URL, c.more))
			r.says(w.address, "ok", 200)
			r.send("traced", 0, 3)
			expect.Eventually(t, func() error { return expect.Is("created", r.flex.Calls().Created, 3) })
			stopped(t, w) // which sends what is left
			if got := posts.Load() > 0; got != c.spans {
				t.Errorf("%d posts of spans", posts.Load())
			}
			said := w.log.String()
			if strings.Count(said, c.says) != 1 && c.says != "" || c.silent != "" && strings.Contains(said, c.silent) {
				t.Errorf("the log says\n%s", said)
			}
		})
	}
}

// TestTraceFaultsAreNamed: each OTEL_* variable that cannot be obeyed is named once, without its value, in the worker's log
// and in the form of that log; what can be obeyed is not named.
func TestTraceFaultsAreNamed(t *testing.T) {
	t.Parallel()
	const secret = "8f3e0b7c5d2a49164c5b7e0f9a1d3c62"
	faulty := []string{"OTEL_SPAN_LINK_COUNT_LIMIT=" + secret, "OTEL_BSP_SCHEDULE_DELAY=" + secret, "OTEL_EXPORTER_OTLP_TIMEOUT=10s " + secret, "OTEL_TRACES_SAMPLER=" + secret,
		"OTEL_TRACES_SAMPLER_ARG=" + secret, "OTEL_RESOURCE_ATTRIBUTES=" + secret, "OTEL_EXPORTER_OTLP_CERTIFICATE=" + secret + ".pem", "OTEL_EXPORTER_OTLP_HEADERS=key-" + secret}
	env := append([]string{"FLEXWORKER_TEST_CHILD=1", "DATABASE_URL=postgres://127.0.0.1:1/base", "NATS_URL=nats://127.0.0.1:1", "ADMIN_ADDR=", "LOG_FORMAT=json",
		"TWILIO_ACCOUNT_SID=AC00000000000000000000000000000001", "TWILIO_AUTH_TOKEN=t", "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1", "OTEL_BSP_EXPORT_TIMEOUT= 10 "}, faulty...)
	c := (&rig{t: t}).command(env, "run")
	expect.Eventually(t, func() error {
		if !strings.Contains(c.log.String(), "not ready yet") {
			return fmt.Errorf("it says %s", c.log.String())
		}
		return nil
	})
	stopped(t, c)
	named := map[string]int{}
	for line := range strings.Lines(c.log.String()) {
		var said struct{ Msg, Name string }
		if err := json.Unmarshal([]byte(line), &said); err != nil {
			t.Errorf("%v: %s", err, line)
		}
		if said.Msg == otelFault {
			named[said.Name]++
		}
	}
	for _, variable := range faulty {
		if name, _, _ := strings.Cut(variable, "="); named[name] != 1 {
			t.Errorf("%s is named %d times", name, named[name])
		}
	}
	if len(named) != len(faulty) || strings.Contains(c.log.String(), secret[:8]) {
		t.Errorf("named are %v:\n%s", named, c.log.String())
	}
}

// TestHangingCollector: a collector that takes connections and says nothing delays no request, nor the end by much.
func TestHangingCollector(t *testing.T) {
	t.Parallel()
	collector, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = collector.Close() }) // its backlog takes the connections; nobody accepts
	r := newRig(t)
	w := r.command(r.environment("OTEL_EXPORTER_OTLP_ENDPOINT=http://"+collector.Addr().String(), "OTEL_BSP_SCHEDULE_DELAY=10", "OTEL_BSP_MAX_QUEUE_SIZE=16", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE=8"))
	r.says(w.address, "ok", 200)
	r.send("hung", 0, 200)
	expect.Eventually(t, func() error { return expect.Is("created", r.flex.Calls().Created, 200) })
	if err := w.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if status := w.exit(); status != 0 {
		t.Errorf("status %d", status)
	}
}

// TestEndpointsPathIsNotShown: a collector may want its key in the path of its endpoint, and the
// exporter's errors quote it.
func TestEndpointsPathIsNotShown(t *testing.T) {
	t.Setenv(otelEndpoint, "http://collector:4318/key-8f3e 0b7c/")
	t.Setenv(otelTracesEndpoint, "http://collector:4318/key-4c5b")
	for _, path := range []string{"/key-8f3e%200b7c/v1/traces", "/key-8f3e 0b7c/v1/traces", "/key-4c5b"} {
		said := withoutPaths(fmt.Errorf("failed to send to http://collector:4318%s: 404 Not Found", path)).Error()
		if strings.Contains(said, "key-") || !strings.Contains(said, "http://collector:4318/(hidden)") || !strings.Contains(said, "404") {
			t.Errorf("%s: %s", path, said)
		}
	}
}
