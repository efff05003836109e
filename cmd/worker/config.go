package main

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/kelseyhightower/envconfig"
)

// Config is every setting, read from the environment. docs/configuration.md lists
// them; a test holds the two equal.
type Config struct {
	DatabaseURL Secret `envconfig:"DATABASE_URL" doc:"Postgres; required"`
	Migrate     bool   `envconfig:"MIGRATE" default:"true" doc:"bring the schema up to date at the start"`

	NATSURL       natsURL `envconfig:"NATS_URL" default:"nats://127.0.0.1:4222" doc:"NATS servers, comma-separated"`
	NATSCredsFile string  `envconfig:"NATS_CREDS_FILE" doc:"NATS credentials file (JWT and seed)"`
	NATSCAFile    string  `envconfig:"NATS_CA_FILE" doc:"certificate authorities that the NATS servers are held against"`
	NATSCertFile  string  `envconfig:"NATS_CERT_FILE" doc:"client certificate for NATS; goes with NATS_KEY_FILE"`
	NATSKeyFile   string  `envconfig:"NATS_KEY_FILE" doc:"key of the client certificate"`

	RequestsStream   string `envconfig:"REQUESTS_STREAM" default:"INTERACTION_REQUESTS" doc:"stream that requests are read from"`
	RequestsSubject  string `envconfig:"REQUESTS_SUBJECT" default:"interactions.requests" doc:"prefix of the subjects they arrive on; the source follows"`
	RequestsConsumer string `envconfig:"REQUESTS_CONSUMER" default:"interaction-worker" doc:"durable consumer, shared by all replicas"`
	ResultsStream    string `envconfig:"RESULTS_STREAM" default:"INTERACTION_RESULTS" doc:"stream that results are published to"`
	ResultsSubject   string `envconfig:"RESULTS_SUBJECT" default:"interactions.results" doc:"prefix of their subjects; outcome and source follow"`
	CreateStreams    bool   `envconfig:"CREATE_STREAMS" default:"false" doc:"create the two streams when they are missing, also while it runs"`

	TwilioAccountSID sid    `envconfig:"TWILIO_ACCOUNT_SID" doc:"account sid; goes with TWILIO_AUTH_TOKEN"`
	TwilioAuthToken  Secret `envconfig:"TWILIO_AUTH_TOKEN" doc:"auth token of the account"`
	TwilioAPIKey     sid    `envconfig:"TWILIO_API_KEY" doc:"API key sid, in place of account sid and token; goes with TWILIO_API_SECRET"`
	TwilioAPISecret  Secret `envconfig:"TWILIO_API_SECRET" doc:"secret of the API key"`

	FlexURL          string        `envconfig:"FLEX_URL" default:"https://flex-api.twilio.com" doc:"where interactions are created; https, or plain http to a loopback address"`
	TaskRouterURL    string        `envconfig:"TASKROUTER_URL" default:"https://taskrouter.twilio.com" doc:"where tasks are looked up; the same rule"`
	FlexInsecureHTTP bool          `envconfig:"FLEX_INSECURE_HTTP" default:"false" doc:"plain http to any address, for test networks: credentials go unencrypted"`
	FlexTimeout      time.Duration `envconfig:"FLEX_TIMEOUT" default:"15s" doc:"one attempt, from dialling to the last byte"`
	FlexConcurrency  int           `envconfig:"FLEX_CONCURRENCY" default:"16" doc:"attempts in flight, each replica"`
	FlexRate         float64       `envconfig:"FLEX_RATE" default:"10" doc:"attempts a second, the whole fleet; 0: no limit. In force where the living workers agree"`

	RetryMaxAttempts int           `envconfig:"RETRY_MAX_ATTEMPTS" default:"10" doc:"attempts that reached Flex until a request is abandoned"`
	RetryMinDelay    time.Duration `envconfig:"RETRY_MIN_DELAY" default:"1s" doc:"before the first repeat; doubles with each, with jitter"`
	RetryMaxDelay    time.Duration `envconfig:"RETRY_MAX_DELAY" default:"5m" doc:"the longest time between two attempts"`

	LookupAttribute string        `envconfig:"LOOKUP_ATTRIBUTE" default:"interaction_request" doc:"task attribute that carries the lookup key; empty: none, and no lookups"`
	LookupSettle    time.Duration `envconfig:"LOOKUP_SETTLE" default:"60s" doc:"how long after an attempt absence proves nothing"`
	UncertainPolicy string        `envconfig:"UNCERTAIN_POLICY" default:"hold" doc:"what cannot be found out: hold (a person decides), retry (at least once) or fail"`

	Confirm     bool    `envconfig:"CONFIRM" default:"false" doc:"read after each creation whether the channel was set up, and publish one more message about it"`
	ConfirmRate float64 `envconfig:"CONFIRM_RATE" default:"5" doc:"reads a second for that, the whole fleet"`

	Retention     time.Duration `envconfig:"RETENTION" default:"720h" doc:"settled and published rows older than this are removed; 0: never"`
	ShutdownGrace time.Duration `envconfig:"SHUTDOWN_GRACE" default:"30s" doc:"how long attempts in flight may take to finish after SIGTERM"`

	AdminAddr      string `envconfig:"ADMIN_ADDR" default:":8080" doc:"health, metrics, the page and the API; empty: none"`
	AdminToken     Secret `envconfig:"ADMIN_TOKEN" doc:"may act on the page and the API; without it both are off"`
	AdminReadToken Secret `envconfig:"ADMIN_READ_TOKEN" doc:"may look only"`
	TrustedProxies string `envconfig:"TRUSTED_PROXIES" doc:"addresses and prefixes from which X-Forwarded-User and X-Forwarded-Groups count, comma-separated"`
	ServiceSubject string `envconfig:"SERVICE_SUBJECT" default:"interactions" doc:"prefix of the subjects on which senders ask and cancel; status or cancel and the source follow. Empty: none"`
	LogLevel       string `envconfig:"LOG_LEVEL" default:"info" doc:"debug, info, warn or error; to standard error"`
	LogFormat      string `envconfig:"LOG_FORMAT" default:"json" doc:"json or text"`
}

// mayBeEmpty are the settings for which an empty value means something.
var mayBeEmpty = map[string]bool{"LOOKUP_ATTRIBUTE": true, "ADMIN_ADDR": true, "SERVICE_SUBJECT": true}

// loadConfig reads all settings and reports every fault at once, without the
// value of a secret.
func loadConfig() (Config, error) {
	var cfg Config
	var faults []error
	var unread []string
	v := reflect.ValueOf(&cfg).Elem()
	for i := range v.NumField() {
		if err := loadField(v.Type().Field(i), v.Field(i)); err != nil {
			faults = append(faults, err)
			unread = append(unread, v.Type().Field(i).Tag.Get("envconfig"))
		}
	}
	for _, fault := range cfg.faults() {
		// What could not be read has no value to find fault with.
		if !slices.ContainsFunc(unread, func(name string) bool { return strings.Contains(fault.Error(), name) }) {
			faults = append(faults, fault)
		}
	}
	return cfg, errors.Join(faults...)
}

// loadField has envconfig read one setting. The library stops at its first
// fault, so it is given one field at a time.
func loadField(f reflect.StructField, into reflect.Value) error {
	name := f.Tag.Get("envconfig")
	value, set := os.LookupEnv(name)
	if f.Type == reflect.TypeFor[Secret]() {
		s, err := loadSecret(name)
		into.Set(reflect.ValueOf(s))
		return err
	}
	if f.Type.Kind() == reflect.String && strings.TrimSpace(value) != value { // as those of files are
		value = strings.TrimSpace(value)
		into.SetString(value)
		if value != "" {
			return nil
		}
	}
	if set && value == "" && !mayBeEmpty[name] {
		return fmt.Errorf("%s is set but empty: leave it out to have the default", name)
	}
	if set && value == "" {
		return nil
	}
	one := reflect.New(reflect.StructOf([]reflect.StructField{f}))
	if envconfig.Process("", one.Interface()) != nil {
		return fmt.Errorf("%s is not %s (its value is not shown)", name, expected[f.Type.String()])
	}
	into.Set(one.Elem().Field(0))
	return nil
}

var expected = map[string]string{
	"bool": "true or false", "int": "a whole number", "float64": "a number",
	"time.Duration": "a duration such as 30s, 5m or 720h",
}

// credentials is the pair in force at this moment: a rotated file counts at once.
func (c Config) credentials() (user, password string) {
	if c.TwilioAPIKey != "" {
		return string(c.TwilioAPIKey), c.TwilioAPISecret.Value()
	}
	return string(c.TwilioAccountSID), c.TwilioAuthToken.Value()
}
