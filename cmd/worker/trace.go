package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"flexworker/internal/flex"
	"flexworker/internal/outbox"
)

// traces sends spans to where the standard OTEL_* variables say; without an
// endpoint there is no tracing. The returned function sends what is left.
func (a *app) traces(ctx context.Context) (func(), error) {
	if os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") == "" && os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") == "" {
		return func() {}, nil
	}
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
	a.state.tracing = true
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { a.log.Warn("traces", "error", err) }))
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_ = provider.Shutdown(ctx) // spans that cannot be sent are lost; requests are not
	}, nil
}

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
