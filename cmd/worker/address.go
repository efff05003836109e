package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"flexworker/internal/database"
	"flexworker/internal/flex"
)

// An address may hold a password, and a password that holds a slash, an at sign, a
// comma and the like makes every parser take a piece of it for a host, a port or a
// database. Then the piece stands wherever the address is shown, and in the errors of
// whoever dials it. What follows rests on one fact: who writes a password into an
// address writes an @ behind it. An @ in a place where a parser saw something else
// gives the mistake away, and such an address is a fault at the start, so that no
// library is asked to use it. No fault quotes any part of the address.

const percentEncode = "in user and password write %40 for @, %2F for /, %2C for a comma, %23 for #, %3F for ? and %25 for %"

// databaseProblem says what is wrong with DATABASE_URL, a URL or key=value pairs, "" when nothing is.
func databaseProblem(dsn string) string {
	if _, err := database.Parse(dsn); err != nil { // which quotes it
		return "is not a Postgres address such as postgres://worker@db/worker"
	}
	_, rest, isURL := strings.Cut(dsn, "://")
	if !isURL || !strings.HasPrefix(dsn, "postgres") {
		return "" // quoted by its own rules
	}
	// As pgx and libpq read it: what stands before the first @ is user and password, unless a / comes earlier.
	user := false
	if i := strings.IndexAny(rest, "@/"); i >= 0 && rest[i] == '@' {
		rest, user = rest[i+1:], true
	}
	place, query, _ := strings.Cut(rest, "?")
	astray := strings.Contains(place, "@")
	for pair := range strings.SplitSeq(query, "&") {
		key, value, _ := strings.Cut(pair, "=")
		person := slices.Contains([]string{"user", "password", "sslpassword"}, key)
		astray = astray || strings.Contains(key, "@") || strings.Contains(value, "@") && (user || !person)
	}
	if astray {
		return "has an @ where none can be: " + percentEncode
	}
	return ""
}

// natsURL is NATS_URL. However it is printed, users and passwords are not.
type natsURL string

// String shows the servers, as far as that is safe.
func (n natsURL) String() string { return shownNATS(string(n)) }

// Format hides them from every verb.
func (n natsURL) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, n.String()) }

// MarshalText hides them from encoders.
//
//nolint:unparam // the interface has an error
func (n natsURL) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

// natsParts are the servers of NATS_URL as nats.go parts them, each with a scheme.
func natsParts(list string) []string {
	var parts []string
	for part := range strings.SplitSeq(list, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		if !strings.Contains(part, "://") {
			part = "nats://" + part
		}
		parts = append(parts, part)
	}
	return parts
}

// natsProblem says what is wrong with NATS_URL, a comma-separated list, "" when nothing is.
func natsProblem(list string) string {
	parts := natsParts(list)
	users := 0
	for _, part := range parts {
		u, err := url.Parse(part)
		if err != nil || u.Host == "" {
			return "is not a list of addresses such as nats://nats:4222; " + percentEncode
		}
		if userAstray(part, u) {
			return "has an @ where none can be: " + percentEncode
		}
		if u.User != nil {
			users++
		}
	}
	// A comma in a password parts one server into two.
	switch {
	case len(parts) == 0:
		return "has no server in it"
	case users > 0 && users < len(parts):
		return "has user and password for some of its servers only: write them for each, and %2C for a comma in them"
	case users > 1 && strings.Count(list, "://") < len(parts):
		return "has servers with user and password of which some lack a scheme: begin each with nats://, and write %2C for a comma in user and password"
	}
	return ""
}

// userAstray says whether an address has an @ that does not end its user and password.
func userAstray(address string, u *url.URL) bool {
	_, rest, _ := strings.Cut(address, "://")
	authority := rest
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority = rest[:i]
	}
	return strings.Contains(rest[len(authority):], "@") || strings.Contains(rest, "@") && u.User == nil
}

// schemes are those of the addresses that are shown: another one may be a word of a secret.
var schemes = []string{"http", "https", "nats", "tls", "ws", "wss"}

// seedForm is the form of an nkey seed, and of the public keys that go with seeds.
var seedForm = regexp.MustCompile(`^[A-Z2-7]+$`)

// maybeSeed says whether a host may be a seed or a token that stands in the place of a server.
func maybeSeed(host string) bool {
	return !strings.ContainsAny(host, ".:") && (len(host) > 40 || seedForm.MatchString(host))
}

// shownAddress is an address without user, password, path and query, or "(hidden)" where it
// cannot be told for sure which part of it is which. A gateway may want its key in the path.
func shownAddress(address string) string {
	u, err := url.Parse(address)
	if err != nil || !slices.Contains(schemes, u.Scheme) || u.Host == "" || strings.Count(address, "@") > 1 || userAstray(address, u) {
		return "(hidden)"
	}
	text := u.Scheme + "://"
	if u.User != nil {
		text += "(hidden)@"
	}
	if text += u.Host; strings.Trim(u.Path, "/") != "" {
		text += "/(hidden)"
	}
	return text
}

// sid is a sid of Twilio's. However it is printed, what has not the form of one is not: who
// swaps two settings puts a secret here.
type sid string

// String is the sid.
func (s sid) String() string {
	if s == "" || flex.IsSID(string(s), "AC") || flex.IsSID(string(s), "SK") {
		return string(s)
	}
	return "(hidden)"
}

// Format hides what is none from every verb.
func (s sid) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// MarshalText hides what is none from encoders.
//
//nolint:unparam // the interface has an error
func (s sid) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

var (
	// adminForm is what ADMIN_ADDR can be made of. What has other characters may hold a user and a
	// password, and is not shown.
	adminForm = regexp.MustCompile(`^[A-Za-z0-9._:%\[\]-]*$`)
	// portForm is the number of a port, also of one that is too large.
	portForm = regexp.MustCompile(`^[0-9]{1,5}$`)
)

// adminProblem says what is wrong with ADMIN_ADDR, "" when nothing is.
func adminProblem(address string) string {
	if shownAdmin(address) != address {
		return "ADMIN_ADDR must be host:port or :port and nothing else (its value is not shown)"
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil || !isPort(port) {
		return "ADMIN_ADDR=" + address + " must be host:port or :port"
	}
	return ""
}

// isPort says whether a text is the number of a port or the name of a service.
func isPort(port string) bool {
	_, err := net.DefaultResolver.LookupPort(context.Background(), "tcp", port)
	return err == nil
}

// shownAdmin is ADMIN_ADDR as far as it can be shown: where it is host:port or :port, or a port
// without its colon. Anything else may be a secret.
func shownAdmin(address string) string {
	_, port, err := net.SplitHostPort(address)
	parts := err == nil && adminForm.MatchString(address) && (portForm.MatchString(port) || isPort(port))
	if address == "" || parts || portForm.MatchString(address) {
		return address
	}
	return "(hidden)"
}

// shownNATS is NATS_URL without users and passwords, or "(hidden)" where that cannot be told for sure.
func shownNATS(list string) string {
	if natsProblem(list) != "" {
		return "(hidden)"
	}
	var shown []string
	for _, part := range natsParts(list) {
		u, err := url.Parse(part)
		if err != nil || maybeSeed(u.Hostname()) {
			return "(hidden)"
		}
		// A server of NATS has no path: a word before a slash may be a piece of a secret.
		if strings.Trim(u.Path, "/") != "" && !strings.ContainsAny(u.Host, ".:") {
			return "(hidden)"
		}
		shown = append(shown, shownAddress(part))
	}
	if slices.Contains(shown, "(hidden)") {
		return "(hidden)"
	}
	return strings.Join(shown, ",")
}

// shownDatabase is where a database is, host, port and name, behind a space; "" when
// DATABASE_URL is no URL, or is one in which that cannot be told for sure.
func shownDatabase(dsn string) string {
	u, err := url.Parse(dsn)
	if err != nil || u.Host == "" || strings.Count(dsn, "@") > 1 || userAstray(dsn, u) || databaseProblem(dsn) != "" {
		return ""
	}
	return " " + u.Host + u.Path
}
