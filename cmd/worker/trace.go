package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"flexworker/internal/flex"
	"flexworker/internal/otelenv"
	"flexworker/internal/outbox"
	"flexworker/internal/trouble"
)

// The standard variables that the SDK leaves to the program: where spans go, whether
// there are any, and how they are sent. An empty one counts as not set
// (opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables).
const (
	otelEndpoint       = "OTEL_EXPORTER_OTLP_ENDPOINT"
	otelTracesEndpoint = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
	otelDisabled       = "OTEL_SDK_DISABLED"
	otelExporter       = "OTEL_TRACES_EXPORTER"
	otelProtocol       = "OTEL_EXPORTER_OTLP_PROTOCOL"
	otelTracesProtocol = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"
)

// tracesWanted says whether the environment asks for spans. why is not empty where it
// asks for them in a way that this program does not know: then there are none, since
// spans sent in another form than the port takes are lost one by one.
func tracesWanted() (wanted bool, why string) {
	if os.Getenv(otelEndpoint) == "" && os.Getenv(otelTracesEndpoint) == "" || strings.EqualFold(os.Getenv(otelDisabled), "true") {
		return false, ""
	}
	switch exporter := os.Getenv(otelExporter); exporter {
	case "none":
		return false, ""
	case "", "otlp":
	default:
		return false, otelExporter + " is neither otlp nor none"
	}
	name := otelProtocol
	if os.Getenv(otelTracesProtocol) != "" {
		name = otelTracesProtocol
	}
	if protocol := os.Getenv(name); protocol != "" && protocol != "http/protobuf" {
		return false, name + " is not http/protobuf; a collector takes that on port 4318"
	}
	return true, ""
}

// traceFaults are addresses of OTEL_* that cannot be used. The exporter would go on
// without them, to localhost, and its errors quote them.
func traceFaults() []error {
	if wanted, _ := tracesWanted(); !wanted {
		return nil
	}
	var faults []error
	for _, name := range []string{otelEndpoint, otelTracesEndpoint} {
		address := os.Getenv(name)
		u, err := url.Parse(address)
		switch {
		case address == "":
		case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
			faults = append(faults, fmt.Errorf("%s is not an address such as http://collector:4318", name))
		case strings.Contains(address, "@"):
			faults = append(faults, fmt.Errorf("%s must have no user or password: they would not be sent; OTEL_EXPORTER_OTLP_HEADERS is for credentials", name))
		}
	}
	return faults
}

// traces sends spans to where the standard OTEL_* variables say; without an
// endpoint there is no tracing. The returned function sends what is left. A collector
// that hangs costs nobody anything: the SDK drops spans that find its queue full.
func (a *app) traces(ctx context.Context) (func(), error) {
	wanted, why := tracesWanted()
	if why != "" {
		a.log.Warn("no traces are sent: only OTLP over HTTP is supported", "why", why)
	}
	if !wanted {
		return func() {}, nil
	}
	for _, name := range otelenv.Ignored() {
		a.log.Warn(otelFault, "name", name)
	}
	otel.SetLogger(logr.New(sdkLog{a.log}))
	// Until the provider is made the SDK reads its variables, and its errors quote them.
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(error) { a.log.Warn(otelFault, "name", "OTEL_*") }))
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("OTEL_*: %w", err)
	}
	if os.Getenv("OTEL_SERVICE_NAME") == "" {
		if err := os.Setenv("OTEL_SERVICE_NAME", "flexworker"); err != nil {
			return nil, err
		}
	}
	provider := sdk.NewTracerProvider(sdk.WithBatcher(exporter))
	otel.SetTracerProvider(provider)
	var failing trouble.Trouble // its end is not known: the SDK reports failures only
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { failing.Tell(a.log, "some traces are lost", withoutPaths(err)) }))
	a.state.tracing = true
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_ = provider.Shutdown(ctx) // spans that cannot be sent are lost; requests are not
	}, nil
}

// withoutPaths is an error of the exporter without the paths of its endpoints, which it quotes:
// a collector may want its key there.
func withoutPaths(err error) error {
	text := err.Error()
	for _, name := range []string{otelEndpoint, otelTracesEndpoint} {
		if u, err := url.Parse(os.Getenv(name)); err == nil && strings.Trim(u.Path, "/") != "" {
			text = strings.ReplaceAll(text, strings.TrimRight(u.EscapedPath(), "/"), "/(hidden)")
			text = strings.ReplaceAll(text, strings.TrimRight(u.Path, "/"), "/(hidden)")
		}
	}
	return errors.New(text)
}

// sdkLog is where the SDK says which of its settings it cannot obey. It quotes them, and
// OTEL_EXPORTER_OTLP_HEADERS holds credentials, so only what it could not do is kept.
type sdkLog struct{ log *slog.Logger }

func (sdkLog) Init(logr.RuntimeInfo) {}

// Enabled is for errors and warnings, which the SDK logs at the levels 0 and 1.
func (sdkLog) Enabled(level int) bool { return level <= 1 }

// Info is one of its warnings.
func (s sdkLog) Info(_ int, message string, _ ...any) {
	s.log.Warn("OpenTelemetry warns", "of", message)
}

// Error is mostly a variable that it cannot read. Of the values that it quotes only the name of the variable is kept in
// which they stand.
func (s sdkLog) Error(_ error, message string, keysAndValues ...any) {
	var names []string
	for _, variable := range os.Environ() {
		name, value, _ := strings.Cut(variable, "=")
		for i := 1; i < len(keysAndValues); i += 2 {
			text, _ := keysAndValues[i].(string)
			if strings.HasPrefix(name, "OTEL_") && text != "" && strings.Contains(value, text) {
				names = append(names, name)
				break
			}
		}
	}
	s.log.Warn(otelFault, "name", strings.Join(names, ", "), "failed", message)
}

// otelFault is said of a variable that OpenTelemetry cannot read. Its value may be a secret, and is not shown.
const otelFault = "an OTEL_* variable cannot be obeyed"

// WithValues drops the values.
func (s sdkLog) WithValues(...any) logr.LogSink { return s }

// WithName drops the name.
func (s sdkLog) WithName(string) logr.LogSink { return s }

// traceAttempt writes one attempt as a span of the trace that came with its
// request.
func traceAttempt(at outbox.Attempt) {
	ctx := propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{"traceparent": at.Lease.Traceparent})
	end := time.Now()
	_, span := otel.Tracer("flexworker").Start(ctx, "create interaction", trace.WithSpanKind(trace.SpanKindClient),
		trace.WithTimestamp(end.Add(-at.Outcome.Took)), trace.WithAttributes(
			attribute.String("request_id", at.Lease.RequestID),
			attribute.Int("attempt", at.Lease.Attempt),
			attribute.String("outcome", at.Outcome.Kind.String()),
			attribute.Int("http.response.status_code", at.Outcome.HTTPStatus),
			attribute.String("interaction_sid", at.Outcome.InteractionSID)))
	if at.Outcome.Kind != flex.Created {
		span.SetStatus(codes.Error, at.Outcome.ErrorKind)
	}
	span.End(trace.WithTimestamp(end))
}
