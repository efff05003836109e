package flex

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"

	"golang.org/x/net/http/httpproxy"
)

// ProxyFaults says what is wrong with HTTPS_PROXY and HTTP_PROXY, or is nil. Go takes an
// address that does not parse for no proxy at all, and calls Twilio straight. The faults
// do not show the address, as a password may stand in it.
//
// NO_PROXY has no faults: what is not understood there matches nothing, and the proxy is
// asked all the same.
func ProxyFaults() error {
	return errors.Join(proxyFault("HTTPS_PROXY", "https_proxy"), proxyFault("HTTP_PROXY", "http_proxy"))
}

// proxyFault reads one of the variables as httpproxy does: the first that is not empty.
func proxyFault(names ...string) error {
	for _, name := range names {
		if address := os.Getenv(name); address != "" {
			if !isProxy(address) {
				return fmt.Errorf("%s is not the address of a proxy such as http://proxy.example.com:3128 (its value is not shown)", name)
			}
			return nil
		}
	}
	return nil
}

// isProxy tells whether net/http can go through the proxy at this address. As there,
// http:// may be left out.
func isProxy(address string) bool {
	u, err := url.Parse(address)
	if err != nil || u.Scheme == "" || u.Host == "" {
		if u, err = url.Parse("http://" + address); err != nil {
			return false
		}
	}
	switch u.Scheme {
	case "http", "https", "socks5", "socks5h":
		port, err := strconv.ParseUint(cmp.Or(u.Port(), "80"), 10, 16)
		return err == nil && port > 0 && u.Hostname() != "" && (u.Path == "" || u.Path == "/") && u.RawQuery == "" && u.Fragment == ""
	}
	return false
}

// ProxyIgnored warns of a variable that other programs obey and net/http does not; "" for
// nothing to say.
func ProxyIgnored() string {
	all := cmp.Or(os.Getenv("ALL_PROXY"), os.Getenv("all_proxy"))
	if all == "" || cmp.Or(os.Getenv("HTTPS_PROXY"), os.Getenv("https_proxy")) != "" {
		return ""
	}
	return "ALL_PROXY is set, but is not obeyed: the calls to Twilio use no proxy; set HTTPS_PROXY"
}

// proxies chooses the proxy of a call by the environment of this moment.
// http.ProxyFromEnvironment would keep that of its first call.
func proxies() func(*http.Request) (*url.URL, error) {
	choose := httpproxy.FromEnvironment().ProxyFunc()
	return func(r *http.Request) (*url.URL, error) { return choose(r.URL) }
}
