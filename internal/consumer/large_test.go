package consumer

import (
	"fmt"
	"strings"
	"testing"
)

// TestLargeMessages, which runs beside no other since it moves 100 MB: a stream full of the largest messages does not cost the
// connection, and with it a delivery of whatever was on its way.
func TestLargeMessages(t *testing.T) {
	const n = 120
	w := newWorld(t)
	metadata := strings.Repeat("x", 900<<10)
	for i := range n {
		if _, err := w.js.PublishAsync("requests.crm", fmt.Appendf(nil, `{"request_id":"large-%d","channel":{"type":"sms","initiated_by":"api","sid":"UO00000000000000000000000000000001"},"metadata":%q}`, i, metadata)); err != nil {
			t.Fatal(err)
		}
	}
	<-w.js.PublishAsyncComplete()
	c := w.consumer(2 * n)
	w.run(c)
	w.acked()
	w.rows(n)
	if lost := c.Stream.Conn().Stats().Reconnects; lost > 0 {
		t.Errorf("the connection was lost %d times", lost)
	}
	if n := c.Counters.Added[3].Load(); n > 0 {
		t.Errorf("%d were redelivered", n)
	}
}
