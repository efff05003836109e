package main

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"flexworker/internal/admin/access"
	"flexworker/internal/flex"
	"flexworker/internal/senders"
)

var (
	subjectPattern = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`)
	namePattern    = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
)

// A form is what the values of a setting are made of. A value that is made otherwise may be a secret that stands in the
// wrong place, and is not shown.
type form struct {
	fits func(string) bool
	want string
}

var (
	nameForm    = form{namePattern.MatchString, "may have letters, digits, _ and - only"}
	subjectForm = form{subjectPattern.MatchString, "is not a subject of plain tokens"}
	forms       = map[string]form{
		"REQUESTS_STREAM": nameForm, "REQUESTS_CONSUMER": nameForm, "RESULTS_STREAM": nameForm,
		"REQUESTS_SUBJECT": subjectForm, "RESULTS_SUBJECT": subjectForm,
		"SERVICE_SUBJECT":  {func(s string) bool { return s == "" || subjectPattern.MatchString(s) }, subjectForm.want},
		"LOOKUP_ATTRIBUTE": {fits: func(name string) bool { return flex.AttributeProblem(name) == "" }}, // which says what it wants
		"UNCERTAIN_POLICY": {oneOf("hold", "retry", "fail"), "must be hold, retry or fail"},
		"LOG_LEVEL":        {oneOf("debug", "info", "warn", "error"), "must be debug, info, warn or error"},
		"LOG_FORMAT":       {oneOf("json", "text"), "must be json or text"},
		"TRUSTED_PROXIES": {func(list string) bool { _, err := access.ParseProxies(list); return err == nil },
			"must be addresses and prefixes such as 10.0.0.7,10.1.0.0/16, and not trust every address"},
	}
)

func oneOf(words ...string) func(string) bool {
	return func(value string) bool { return slices.Contains(words, value) }
}

// faults are what is wrong with values that could be read.
func (c Config) faults() []error {
	var faults []error
	want := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	if c.DatabaseURL.Value() == "" {
		want(false, "DATABASE_URL is required, such as postgres://worker@db/worker (or DATABASE_URL_FILE)")
	} else if problem := databaseProblem(c.DatabaseURL.Value()); problem != "" {
		want(false, "DATABASE_URL %s", problem)
	}
	if problem := natsProblem(string(c.NATSURL)); problem != "" {
		want(false, "NATS_URL %s", problem)
	}
	fits := func(name, value string) bool {
		want(forms[name].fits(value), "%s %s (its value is not shown)", name, forms[name].want)
		return forms[name].fits(value)
	}
	subjects := fits("REQUESTS_SUBJECT", c.RequestsSubject)
	subjects = fits("RESULTS_SUBJECT", c.ResultsSubject) && subjects
	requests, results := c.RequestsSubject+".", c.ResultsSubject+"."
	want(!subjects || !strings.HasPrefix(requests, results) && !strings.HasPrefix(results, requests),
		"REQUESTS_SUBJECT=%s and RESULTS_SUBJECT=%s must not lie within each other: results would come back as requests, without end", c.RequestsSubject, c.ResultsSubject)
	if fits("SERVICE_SUBJECT", c.ServiceSubject) && subjects && c.ServiceSubject != "" {
		for _, s := range [][2]string{{"REQUESTS_SUBJECT", requests}, {"RESULTS_SUBJECT", results}} {
			meets := func(kind senders.Kind) bool {
				asked := c.ServiceSubject + "." + kind.String() + "."
				return strings.HasPrefix(asked, s[1]) || strings.HasPrefix(s[1], asked)
			}
			want(!slices.ContainsFunc(senders.Kinds[:], meets),
				"SERVICE_SUBJECT=%s and %s=%s must not lead to the same subjects: the stream would take the questions of senders", c.ServiceSubject, s[0], strings.TrimSuffix(s[1], "."))
		}
	}
	fits("REQUESTS_STREAM", c.RequestsStream)
	fits("REQUESTS_CONSUMER", c.RequestsConsumer)
	fits("RESULTS_STREAM", c.ResultsStream)
	want((c.NATSCertFile == "") == (c.NATSKeyFile == ""), "NATS_CERT_FILE and NATS_KEY_FILE go together")
	for _, s := range [][2]string{{"NATS_CREDS_FILE", c.NATSCredsFile}, {"NATS_CA_FILE", c.NATSCAFile}, {"NATS_CERT_FILE", c.NATSCertFile}, {"NATS_KEY_FILE", c.NATSKeyFile}} {
		if s[1] != "" {
			if _, err := os.ReadFile(s[1]); err != nil {
				want(false, "%s %s", s[0], noFile(err))
			}
		}
	}
	faults = append(faults, c.credentialFaults()...)
	for _, s := range [][3]string{{"FLEX_URL", c.FlexURL, flex.FlexHost}, {"TASKROUTER_URL", c.TaskRouterURL, flex.TaskRouterHost}} {
		problem := flex.AddressProblem(s[1], s[2], c.FlexInsecureHTTP)
		want(problem == "", "%s %s", s[0], problem)
	}
	if err := flex.ProxyFaults(); err != nil {
		faults = append(faults, err)
	}
	want(c.FlexTimeout >= time.Second && c.FlexTimeout <= 5*time.Minute, "FLEX_TIMEOUT=%v must be between 1s and 5m", c.FlexTimeout)
	want(c.FlexConcurrency >= 1 && c.FlexConcurrency <= 1000, "FLEX_CONCURRENCY=%d must be between 1 and 1000", c.FlexConcurrency)
	want(c.FlexRate >= 0 && c.FlexRate <= 1e6, "FLEX_RATE=%v must be between 0 and 1000000", c.FlexRate)
	want(c.RetryMaxAttempts >= 1, "RETRY_MAX_ATTEMPTS=%d must be at least 1", c.RetryMaxAttempts)
	want(c.RetryMinDelay >= time.Millisecond, "RETRY_MIN_DELAY=%v must be at least 1ms", c.RetryMinDelay)
	want(c.RetryMaxDelay >= c.RetryMinDelay && c.RetryMaxDelay <= 24*time.Hour, "RETRY_MAX_DELAY=%v must be between RETRY_MIN_DELAY and 24h", c.RetryMaxDelay)
	attribute := flex.AttributeProblem(c.LookupAttribute)
	want(attribute == "", "LOOKUP_ATTRIBUTE %s (its value is not shown)", attribute)
	want(c.LookupSettle >= time.Second && c.LookupSettle <= 4*time.Minute, "LOOKUP_SETTLE=%v must be between 1s and 4m: TaskRouter forgets a finished task after five minutes", c.LookupSettle)
	fits("UNCERTAIN_POLICY", c.UncertainPolicy)
	want(c.ConfirmRate >= 0.1 && c.ConfirmRate <= 10_000, "CONFIRM_RATE=%v must be between 0.1 and 10000", c.ConfirmRate)
	want(c.Retention == 0 || c.Retention >= time.Hour, "RETENTION=%v must be 0 (never) or at least 1h: a repeat is recognised only while its row is there", c.Retention)
	want(c.ShutdownGrace >= 0, "SHUTDOWN_GRACE=%v must not be negative", c.ShutdownGrace)
	if c.AdminAddr != "" {
		problem := adminProblem(c.AdminAddr)
		want(problem == "", "%s", problem)
	}
	want(c.AdminToken.Value() == "" || c.AdminToken.Value() != c.AdminReadToken.Value(), "ADMIN_READ_TOKEN must not be ADMIN_TOKEN: who may look could act")
	for _, token := range []struct{ name, value string }{{"ADMIN_TOKEN", c.AdminToken.Value()}, {"ADMIN_READ_TOKEN", c.AdminReadToken.Value()}} {
		want(token.value == "" || len(token.value) >= tokenLeast, "%s has fewer than %d characters and may be guessed: `openssl rand -hex 24` makes a good one", token.name, tokenLeast)
	}
	want(c.AdminToken.Value() != "" || c.AdminReadToken.Value() == "", "ADMIN_READ_TOKEN is set without ADMIN_TOKEN: page and API are off without that one")
	fits("TRUSTED_PROXIES", c.TrustedProxies)
	fits("LOG_LEVEL", c.LogLevel)
	faults = append(faults, traceFaults()...)
	fits("LOG_FORMAT", c.LogFormat)
	return faults
}

// tokenLeast is how many characters ADMIN_TOKEN has to have: its length alone keeps anybody from guessing it.
const tokenLeast = 20

// warnings are what is allowed and has to be said loudly at the start.
func (c Config) warnings() []string {
	var list []string
	if c.FlexInsecureHTTP {
		list = append(list, "FLEX_INSECURE_HTTP: plain http is allowed to any address, so that whoever is on the way can read the credentials"+
			" and the customers' data; it is for test networks only")
	}
	for _, s := range [][2]string{{"FLEX_URL", c.FlexURL}, {"TASKROUTER_URL", c.TaskRouterURL}} {
		if u, err := url.Parse(s[1]); err == nil && strings.Trim(u.Path, "/") != "" {
			list = append(list, s[0]+": it has a path, to which the worker adds /v1/...: Twilio's own addresses have none")
		}
	}
	if c.ConfirmRate > publishedRate {
		list = append(list, fmt.Sprintf("CONFIRM_RATE: a rate of %v is more than the %d a second that Twilio publishes for an endpoint and an account", c.ConfirmRate, publishedRate))
	}
	if ignored := flex.ProxyIgnored(); ignored != "" {
		list = append(list, ignored)
	}
	return list
}

// credentialFaults wants exactly one pair, of the right form.
func (c Config) credentialFaults() []error {
	for _, sid := range [][2]string{{"TWILIO_ACCOUNT_SID", string(c.TwilioAccountSID)}, {"TWILIO_API_KEY", string(c.TwilioAPIKey)}} {
		if problem := tokenProblem(sid[1]); problem != "" {
			return []error{fmt.Errorf("%s %s", sid[0], problem)}
		}
	}
	token := c.TwilioAccountSID != "" || c.TwilioAuthToken.Value() != ""
	key := c.TwilioAPIKey != "" || c.TwilioAPISecret.Value() != ""
	switch {
	case token && key:
		return []error{errors.New("give either TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN or TWILIO_API_KEY and TWILIO_API_SECRET, not both")}
	case !token && !key:
		return []error{errors.New("TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN, or TWILIO_API_KEY and TWILIO_API_SECRET, are required")}
	case token && (c.TwilioAccountSID == "" || c.TwilioAuthToken.Value() == ""):
		return []error{errors.New("TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN go together")}
	case key && (c.TwilioAPIKey == "" || c.TwilioAPISecret.Value() == ""):
		return []error{errors.New("TWILIO_API_KEY and TWILIO_API_SECRET go together")}
	case token && !strings.HasPrefix(string(c.TwilioAccountSID), "AC"):
		return []error{errors.New("TWILIO_ACCOUNT_SID must begin with AC (its value is not shown: it may be the token)")}
	case key && !strings.HasPrefix(string(c.TwilioAPIKey), "SK"):
		return []error{errors.New("TWILIO_API_KEY must begin with SK (its value is not shown: it may be the secret)")}
	default:
		return nil
	}
}
