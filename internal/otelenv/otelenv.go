// Package otelenv takes OTEL_* variables that OpenTelemetry cannot read out of the environment, before OpenTelemetry
// looks. Its packages ignore such a value and quote it, and a secret may stand there by mistake. One of them,
// go.opentelemetry.io/auto/sdk, does so before main begins, with a log of its own.
//
// So this package works when it is initialized, which has to be before that one. Go initializes packages in the order of
// their import paths, each as soon as all that it imports is initialized; so this one imports nothing but what log/slog
// imports as well. TestSecretInAnotherField shows that it comes first.
package otelenv

import (
	"os"
	"slices"
	"strconv"
	"strings"
)

var ignored = ignore()

// Ignored are the names of the variables that were taken out.
func Ignored() []string { return slices.Clone(ignored) }

// forms say of each variable whether OpenTelemetry can read a value. Those that are not here it does not quote, or the
// worker looks at them itself.
var forms = map[string]func(string) bool{
	"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT":        isNumber,
	"OTEL_ATTRIBUTE_COUNT_LIMIT":             isNumber,
	"OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": isNumber,
	"OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT":      isNumber,
	"OTEL_SPAN_EVENT_COUNT_LIMIT":            isNumber,
	"OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT":       isNumber,
	"OTEL_SPAN_LINK_COUNT_LIMIT":             isNumber,
	"OTEL_LINK_ATTRIBUTE_COUNT_LIMIT":        isNumber,
	"OTEL_BSP_SCHEDULE_DELAY":                isNumber,
	"OTEL_BSP_EXPORT_TIMEOUT":                isNumber,
	"OTEL_BSP_MAX_QUEUE_SIZE":                isNumber,
	"OTEL_BSP_MAX_EXPORT_BATCH_SIZE":         isNumber,
	"OTEL_EXPORTER_OTLP_TIMEOUT":             isNumber,
	"OTEL_EXPORTER_OTLP_TRACES_TIMEOUT":      isNumber,
	"OTEL_TRACES_SAMPLER":                    isSampler,
	"OTEL_TRACES_SAMPLER_ARG":                isRatio,
	"OTEL_RESOURCE_ATTRIBUTES":               areAttributes,
}

func ignore() []string {
	var names []string
	for name, reads := range forms {
		value, set := os.LookupEnv(name)
		if !set {
			continue
		}
		// Neither fails for a name that has a value.
		if value = strings.TrimSpace(value); value == "" || reads(value) {
			_ = os.Setenv(name, value) // some of its packages take blanks for a fault
			continue
		}
		_ = os.Unsetenv(name)
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func isNumber(value string) bool {
	_, err := strconv.Atoi(value)
	return err == nil
}

func isSampler(value string) bool {
	switch strings.ToLower(value) {
	case "always_on", "always_off", "traceidratio", "parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio":
		return true
	}
	return false
}

func isRatio(value string) bool {
	ratio, err := strconv.ParseFloat(value, 64)
	return err == nil && 0 <= ratio && ratio <= 1
}

// areAttributes: key=value, parted by commas, with percent signs of escapes only.
func areAttributes(value string) bool {
	for pair := range strings.SplitSeq(value, ",") {
		_, text, found := strings.Cut(pair, "=")
		if !found {
			return false
		}
		for rest := text; ; {
			_, escape, more := strings.Cut(rest, "%")
			if !more {
				break
			}
			if len(escape) < 2 {
				return false
			}
			if _, err := strconv.ParseUint(escape[:2], 16, 8); err != nil {
				return false
			}
			rest = escape[2:]
		}
	}
	return true
}
