package flextest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"testing"
)

// BenchmarkCreate measures one create over one connection that stays open. The
// client writes bytes it prepared before and reads as little as it can, so that
// what is measured is the server and the kernel. Run it with -cpu 1 for creates
// a second on one core.
func BenchmarkCreate(b *testing.B) {
	s, err := Start(Config{Keep: 1000})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	conn, err := net.Dial("tcp", s.Addr())
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	answers := bufio.NewReaderSize(conn, 8192)
	form := url.Values{"Channel": {`{"type":"sms","initiated_by":"api","participants":[{"address":"+15550100001","proxy_address":"+15550100002"}]}`}, "Routing": {""}}
	req, _ := http.NewRequest("POST", s.URL(), nil)
	req.SetBasicAuth(AccountSID, AuthToken)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		form["Routing"][0] = fmt.Sprintf(`{"properties":{"workspace_sid":"`+WorkspaceSID+`","workflow_sid":"`+WorkflowSID+`","task_channel_unique_name":"sms","attributes":{"customerName":"Ada","interaction_request":"%032x"}}}`, i)
		body := form.Encode()
		fmt.Fprintf(conn, "POST /v1/Interactions HTTP/1.1\r\nHost: flex\r\nAuthorization: %s\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%s", req.Header.Get("Authorization"), len(body), body)
		if status := skipAnswer(b, answers); status != 200 {
			b.Fatalf("status %d", status)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "creates/s")
	if n := len(s.Duplicates()); n > 0 {
		b.Fatalf("%d duplicates", n)
	}
}

// skipAnswer reads one answer with a Content-Length and returns its status.
func skipAnswer(b *testing.B, r *bufio.Reader) (status int) {
	for length, first := 0, true; ; first = false {
		line, err := r.ReadSlice('\n')
		if err != nil {
			b.Fatal(err)
		}
		switch {
		case first:
			status, _ = strconv.Atoi(string(line[9:12]))
		case len(line) == 2:
			_, _ = io.CopyN(io.Discard, r, int64(length))
			return status
		case len(line) > 16 && string(line[:16]) == "Content-Length: ":
			length, _ = strconv.Atoi(string(line[16 : len(line)-2]))
		}
	}
}
