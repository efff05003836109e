package otelenv

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// TestIgnore: what OpenTelemetry can read stays, what it cannot is taken out and named.
func TestIgnore(t *testing.T) {
	for _, tt := range []struct {
		name, value string
		stays       bool
	}{
		{"OTEL_BSP_SCHEDULE_DELAY", "10", true},
		{"OTEL_BSP_SCHEDULE_DELAY", " 10 ", true},
		{"OTEL_BSP_SCHEDULE_DELAY", "10s", false},
		{"OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "-1", true},
		{"OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "many", false},
		{"OTEL_SPAN_EVENT_COUNT_LIMIT", "99999999999999999999", false},
		{"OTEL_EXPORTER_OTLP_TIMEOUT", "", true},
		{"OTEL_TRACES_SAMPLER", "ParentBased_TraceIDRatio", true},
		{"OTEL_TRACES_SAMPLER", "jaeger_remote", false},
		{"OTEL_TRACES_SAMPLER_ARG", "0.25", true},
		{"OTEL_TRACES_SAMPLER_ARG", "1.5", false},
		{"OTEL_TRACES_SAMPLER_ARG", "NaN", false},
		{"OTEL_RESOURCE_ATTRIBUTES", "a=b,c=%C3%A9,d=", true},
		{"OTEL_RESOURCE_ATTRIBUTES", "a=b,c", false},
		{"OTEL_RESOURCE_ATTRIBUTES", "a=50%", false},
		{"OTEL_RESOURCE_ATTRIBUTES", "a=%+1", false},
		{"OTEL_SERVICE_NAME", "%zz", true},
	} {
		t.Setenv(tt.name, tt.value)
		names := ignore()
		value, set := os.LookupEnv(tt.name)
		if stays := set && value == strings.TrimSpace(tt.value); stays != tt.stays || slices.Contains(names, tt.name) == tt.stays || len(names) > 1 {
			t.Errorf("%s=%s: it stays %t, and %q are named", tt.name, tt.value, stays, names)
		}
	}
}
