package flex

import (
	"bufio"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// noProxies takes all proxies out of the environment for a test.
func noProxies(t *testing.T) {
	for _, name := range []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy", "REQUEST_METHOD"} {
		t.Setenv(name, "")
	}
}

// TestProxyFaults: what Go would take for no proxy, or could not go through, is refused,
// without its value.
func TestProxyFaults(t *testing.T) {
	noProxies(t)
	for _, tt := range []struct {
		address string
		fit     bool
	}{
		{"", true},
		{"http://proxy.example.com:3128", true}, {"http://proxy.example.com", true}, {"http://proxy:3128/", true}, {"https://proxy:443", true},
		{"socks5://proxy:1080", true}, {"socks5h://me:b-secret@proxy:1080", true}, {"http://me:b-secret@proxy:3128", true}, {"http://me:b%2Fsecret@[::1]:3128", true},
		{"proxy", true}, {"proxy:3128", true}, {"10.0.0.1:3128", true}, {"me:b-secret@proxy:3128", true},

		{" ", false}, {" http://proxy:3128", false}, {"http://proxy:3128\n", false}, {`"http://proxy:3128"`, false}, {"'proxy:3128'", false},
		{"http://me:b-secret%@proxy:3128", false}, {"http://me:b secret@proxy:3128", false}, {"http://me:b-secret/x@proxy:3128", false},
		{"http://me:b-secret#x@proxy:3128", false}, {"http://me:b-secret?x@proxy:3128", false},
		{"http://", false}, {"http://:3128", false}, {"http:/proxy:3128", false}, {"http//proxy:3128", false}, {"://proxy", false}, {"http://proxy:port", false},
		{"http://proxy:0", false}, {"http://proxy:99999", false}, {"http://[::1:3128", false},
		{"ftp://proxy:21", false}, {"htttp://proxy:3128", false}, {"file:///etc/proxy", false}, {"http://proxy/wpad.dat", false}, {"http://proxy:3128?x=1", false},
	} {
		for _, name := range []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"} {
			t.Setenv(name, tt.address)
			_, newErr := New(Config{URL: "https://h", TaskRouterURL: "https://h", Timeout: time.Second, Concurrency: 1,
				Credentials: func() (string, string) { return "", "" }})
			for _, err := range []error{ProxyFaults(), newErr} {
				if (err == nil) != tt.fit || err != nil && (!strings.HasPrefix(err.Error(), name+" ") || strings.Contains(err.Error(), "secret")) {
					t.Errorf("%s=%q: %v", name, tt.address, err)
				}
			}
			t.Setenv(name, "")
		}
	}
	t.Setenv("HTTPS_PROXY", "http://%")
	t.Setenv("HTTP_PROXY", "http://%")
	t.Setenv("NO_PROXY", "*.example.com, 10.0.0.0/99,, [::1")
	if err := ProxyFaults(); strings.Count(err.Error(), "not the address") != 2 {
		t.Errorf("both: %v", err)
	}
}

// TestProxyIgnored: what curl obeys and Go does not is said.
func TestProxyIgnored(t *testing.T) {
	noProxies(t)
	if said := ProxyIgnored(); said != "" {
		t.Error(said)
	}
	t.Setenv("all_proxy", "socks5://me:b-secret@proxy:1080")
	if said := ProxyIgnored(); !strings.Contains(said, "HTTPS_PROXY") || strings.Contains(said, "secret") {
		t.Errorf("%q", said)
	}
	t.Setenv("HTTPS_PROXY", "http://proxy:3128")
	if said := ProxyIgnored(); said != "" {
		t.Error(said)
	}
}

// TestThroughTheProxy: a call goes through the proxy, whose refusal is no answer of Twilio's:
// for https nothing was sent then, for plain http nobody can know.
func TestThroughTheProxy(t *testing.T) {
	noProxies(t)
	asked := make(chan string, 2)
	address := listen(t, func(_ int, c net.Conn) {
		r, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		asked <- r.Method + " " + r.Host
		_, _ = c.Write([]byte(answerText("403 Forbidden", "<html>not this way</html>"))) // the client may have gone
	})
	t.Setenv("HTTPS_PROXY", address)
	t.Setenv("HTTP_PROXY", address)
	o := newClient(t, "https://flex.invalid").Create(t.Context(), wish)
	if got := <-asked; got != "CONNECT flex.invalid:443" || o.Kind != Refused || !o.Unreached {
		t.Errorf("https: asked %s, %+v", got, o)
	}
	o = newClient(t, "http://flex.invalid", func(c *Config) { c.InsecureHTTP = true }).Create(t.Context(), wish)
	if got := <-asked; got != "POST flex.invalid" || o.Kind != Uncertain || o.FromTwilio {
		t.Errorf("http: asked %s, %+v", got, o)
	}
}
