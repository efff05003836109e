package flex

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Config says where Twilio is and how to call it. It never shows its credentials,
// nor what may stand in its addresses, however it is printed.
type Config struct {
	// URL and TaskRouterURL are base addresses: https, or http to a loopback
	// address; without user, query and fragment. A slash at the end is ignored.
	URL, TaskRouterURL string
	// InsecureHTTP allows http to any address, for test networks: whoever is on the
	// way then reads the credentials and what customers said. False: it is refused.
	InsecureHTTP bool
	// Credentials are asked at every call, so that a rotated file counts at once.
	// When either is empty the call is not made and its outcome is Blocked.
	Credentials func() (user, password string)
	// Timeout is the limit of one call, from dialling to the last byte.
	Timeout time.Duration
	// Concurrency is how many connections each of the two hosts gets at most, all
	// of them kept; further calls wait for one within their Timeout.
	Concurrency int
	// LookupAttribute is the task attribute that holds our key. "": none is added,
	// and nothing can be looked up.
	LookupAttribute string
	// UserAgent is sent with every call; "": "flexworker".
	UserAgent string
	// RootCAs are trusted instead of the system's; nil: the system's.
	RootCAs *x509.CertPool
}

// Client calls Twilio. It is safe for use by many goroutines.
type Client struct {
	flexURL, taskRouterURL string   // without a slash at the end
	paths                  []string // of these addresses, in which a secret may stand
	credentials            func() (user, password string)
	latest                 atomic.Pointer[login]
	timeout                time.Duration
	late                   error // why a call that takes longer is cut
	lookupAttribute        string
	userAgent              []string
	transport              *http.Transport
}

// New returns a client, or all that is wrong with the configuration in one error.
// It calls nobody.
func New(cfg Config) (*Client, error) {
	if cfg.UserAgent == "" {
		cfg.UserAgent = "flexworker"
	}
	flexURL, err1 := baseAddress("URL", cfg.URL, FlexHost, cfg.InsecureHTTP)
	taskRouterURL, err2 := baseAddress("TaskRouterURL", cfg.TaskRouterURL, TaskRouterHost, cfg.InsecureHTTP)
	faults := []error{err1, err2, ProxyFaults()}
	fault := func(wrong bool, format string, args ...any) {
		if wrong {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	fault(cfg.Credentials == nil, "Credentials: must be given")
	fault(cfg.Timeout <= 0, "Timeout: %v is not above zero", cfg.Timeout)
	fault(cfg.Concurrency < 1, "Concurrency: %d is not above zero", cfg.Concurrency)
	fault(!printable.MatchString(cfg.UserAgent), "UserAgent: must be at most 200 printable ASCII characters")
	problem := AttributeProblem(cfg.LookupAttribute)
	fault(problem != "", "LookupAttribute: %s", problem)
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	return &Client{
		flexURL: flexURL, taskRouterURL: taskRouterURL, credentials: cfg.Credentials,
		paths: pathsOf(flexURL, taskRouterURL), timeout: cfg.Timeout, late: fmt.Errorf("no answer within %v", cfg.Timeout),
		lookupAttribute: cfg.LookupAttribute, userAgent: []string{cfg.UserAgent}, transport: transport(cfg),
	}, nil
}

var (
	printable     = regexp.MustCompile(`^[ -~]{1,200}$`)
	attributeName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]{0,63}$`)

	// taken are the attributes that Twilio writes into its tasks, and the words of
	// the expressions in which ours has to stand.
	taken = []string{
		"channelType", "conversationSid", "conversations", "customerAddress", "customerName", "customers", "direction",
		"flexChannelInviteSid", "flexInteractionChannelSid", "flexInteractionSid", "initiatedBy", "taskCreateSource",
		"AND", "OR", "NOT", "IN", "HAS", "CONTAINS", "NULL", "and", "or", "not", "in", "has", "contains", "null", "true", "false",
	}
)

// AttributeProblem says why Config.LookupAttribute cannot be name, "" when nothing speaks
// against it. No name at all is allowed.
func AttributeProblem(name string) string {
	switch {
	case name == "":
		return ""
	case !attributeName.MatchString(name):
		return "may have letters, digits and _ only, 64 at most, and begin with a letter: TaskRouter's expressions know no others"
	case slices.Contains(taken, name):
		return "must be another name: Twilio itself uses this one"
	default:
		return ""
	}
}

// The hosts of Twilio's two services.
const (
	FlexHost       = "flex-api.twilio.com"
	TaskRouterHost = "taskrouter.twilio.com"
)

// AddressProblem says what is wrong with the base address of the service that Twilio has at
// host, "" when nothing is. It quotes no part of the address, as a password may stand in it.
func AddressProblem(address, host string, insecure bool) string {
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Hostname() == "":
		return "is not an address such as https://" + host
	case u.User != nil || strings.Contains(address, "@") || u.RawQuery != "" || u.ForceQuery || strings.Contains(address, "#"):
		return "must have no user, query or fragment"
	case u.Scheme != "https" && (u.Scheme != "http" || !insecure && !loopback(u.Hostname())):
		return "must be https; plain http is for a loopback address only, or for test networks with FLEX_INSECURE_HTTP=true"
	case !isTwilio(u.Hostname()):
		return ""
	case strings.Trim(u.Path, "/") != "":
		return "must have no path at twilio.com: the worker adds /v1/... to it, and Twilio knows no such path behind another"
	case !strings.HasPrefix(strings.ToLower(u.Hostname()), strings.TrimSuffix(host, ".twilio.com")):
		return "leads to another service of Twilio's: this one is at https://" + host
	default:
		return ""
	}
}

// isTwilio tells whether a host is one of Twilio's.
func isTwilio(host string) bool {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	return host == "twilio.com" || strings.HasSuffix(host, ".twilio.com")
}

// baseAddress is a base address without a slash at its end, or what is wrong with it.
func baseAddress(name, address, host string, insecure bool) (string, error) {
	if problem := AddressProblem(address, host, insecure); problem != "" {
		return "", fmt.Errorf("%s: %s", name, problem)
	}
	u, err := url.Parse(address)
	if err != nil {
		return "", fmt.Errorf("%s: is not an address", name) // unreachable: it was parsed before
	}
	return strings.TrimRight(u.String(), "/"), nil
}

// pathsOf are the paths of addresses. A gateway may want its key there, and who does not
// know the path often repeats it. A short path is no key, and hiding it would blot out
// half of a message.
func pathsOf(addresses ...string) (paths []string) {
	for _, address := range addresses {
		if u, err := url.Parse(address); err == nil && len(u.Path) > 6 {
			paths = append(paths, u.Path, u.EscapedPath())
		}
	}
	return paths
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// transport speaks HTTP/1.1 only, since HTTP/2 may send one POST again thousands
// of times (golang/go#52459). HTTPS_PROXY, HTTP_PROXY and NO_PROXY of the environment hold.
func transport(cfg Config) *http.Transport {
	dialer := &net.Dialer{Timeout: 3 * time.Second, KeepAlive: 15 * time.Second}
	return &http.Transport{
		Proxy:       proxies(),
		DialContext: dialReset(dialer),
		TLSClientConfig: &tls.Config{
			MinVersion: tls.VersionTLS12, RootCAs: cfg.RootCAs, ClientSessionCache: tls.NewLRUClientSessionCache(0),
		},
		TLSNextProto:           map[string]func(string, *tls.Conn) http.RoundTripper{},
		TLSHandshakeTimeout:    5 * time.Second,
		MaxIdleConnsPerHost:    cfg.Concurrency,
		MaxConnsPerHost:        cfg.Concurrency,
		IdleConnTimeout:        20 * time.Second, // below any server's, so that it seldom closes under a call
		ResponseHeaderTimeout:  cfg.Timeout,
		MaxResponseHeaderBytes: 64 << 10, // of all 1xx answers together with the last
		DisableCompression:     true,     // a body is as long as it looks
	}
}

// CloseIdle closes the connections that no call uses.
func (c *Client) CloseIdle() { c.transport.CloseIdleConnections() }

// String is the configuration without secrets.
func (cfg Config) String() string {
	return fmt.Sprintf("flex.Config{URL:%s TaskRouterURL:%s Credentials:[hidden] Timeout:%v Concurrency:%d LookupAttribute:%q UserAgent:%q}",
		hostOf(cfg.URL), hostOf(cfg.TaskRouterURL), cfg.Timeout, cfg.Concurrency, cfg.LookupAttribute, cfg.UserAgent)
}

// GoString is String, for %#v.
func (cfg Config) GoString() string { return cfg.String() }

// LogValue is String, for slog.
func (cfg Config) LogValue() slog.Value { return slog.StringValue(cfg.String()) }

// String names the two hosts.
func (c *Client) String() string {
	return fmt.Sprintf("flex.Client{%s %s}", hostOf(c.flexURL), hostOf(c.taskRouterURL))
}

// GoString is String, for %#v.
func (c *Client) GoString() string { return c.String() }

// LogValue is String, for slog.
func (c *Client) LogValue() slog.Value { return slog.StringValue(c.String()) }

// hostOf is what of an address may be shown.
func hostOf(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return "[invalid]"
	}
	return u.Scheme + "://" + u.Host
}
