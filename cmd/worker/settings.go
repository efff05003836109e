package main

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
)

// settings are all settings, in the order of Config.
func settings(cfg Config) []setting {
	var all []setting
	v := reflect.ValueOf(cfg)
	for i := range v.NumField() {
		f := v.Type().Field(i)
		name := f.Tag.Get("envconfig")
		from := "default"
		if _, ok := os.LookupEnv(name); ok {
			from = "environment"
		} else if _, ok := os.LookupEnv(name + "_FILE"); ok && f.Type == reflect.TypeFor[Secret]() {
			from = "file"
		} else if f.Tag.Get("default") == "" {
			from = "unset"
		}
		value := fmt.Sprint(v.Field(i).Interface())
		switch {
		case name == "DATABASE_URL" && from != "unset":
			value += shownDatabase(cfg.DatabaseURL.Value())
		case name == "FLEX_URL", name == "TASKROUTER_URL":
			value = shownAddress(value)
		case strings.HasPrefix(name, "NATS_") && strings.HasSuffix(name, "_FILE"):
			value = shownPath(value)
		case name == "ADMIN_ADDR":
			value = shownAdmin(value)
		case forms[name].fits != nil && !forms[name].fits(value):
			value = "(hidden)"
		}
		all = append(all, setting{name, value, from, f.Tag.Get("doc")})
	}
	return all
}

// faultsOf are those faults of the settings that begin with one of names, or, where with is
// false, all others: a verb complains of what it needs alone.
func faultsOf(faults error, with bool, names ...string) error {
	list, ok := faults.(interface{ Unwrap() []error }) // what errors.Join has made
	if !ok {
		return faults
	}
	var kept []error
	for _, fault := range list.Unwrap() {
		begins := func(name string) bool { return strings.HasPrefix(fault.Error(), name) }
		if slices.ContainsFunc(names, begins) == with {
			kept = append(kept, fault)
		}
	}
	return errors.Join(kept...)
}

// setting is one setting as it is in force.
type setting struct {
	Name  string `json:"name"`
	Value string `json:"value"` // without secrets
	From  string `json:"from"`  // environment, file, default or unset
	Doc   string `json:"doc"`
}

// ourPrefixes are how the names of our settings begin that nobody else is likely to
// use: of NATS, Postgres, logs and OpenTelemetry other programs have settings too,
// and REQUESTS_CA_BUNDLE is one of Python's.
var ourPrefixes = []string{"RESULTS_", "TWILIO_", "FLEX_", "TASKROUTER_", "RETRY_", "LOOKUP_", "UNCERTAIN_", "RETENTION_", "SHUTDOWN_", "ADMIN_TOKEN", "ADMIN_READ", "TRUSTED_PROX", "CONFIRM", "SERVICE_SUB"}

// unknownSetting is what there is to say of such a name.
const unknownSetting = "it is set, but is not a setting of this worker: it changes nothing (`worker config` lists the settings)"

// unknownSettings are the names in the environment that look like settings of ours
// and are none: a mistyped one must not be obeyed by silence.
func unknownSettings() []string {
	known := map[string]bool{}
	fields := reflect.TypeFor[Config]()
	for i := range fields.NumField() {
		name := fields.Field(i).Tag.Get("envconfig")
		known[name] = true
		known[name+"_FILE"] = fields.Field(i).Type == reflect.TypeFor[Secret]()
	}
	var names []string
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		ours := slices.ContainsFunc(ourPrefixes, func(p string) bool { return strings.HasPrefix(name, p) })
		if ours && !known[name] {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
