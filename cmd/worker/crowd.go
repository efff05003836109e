package main

import (
	"net"
	"net/http"
	"sync"
	"time"
)

// mostConnections is how many connections ADMIN_ADDR holds at a time: enough for probes, scrapes and all who look, and far from what a process
// may open. Who connects needs no token.
const mostConnections = 512

// A crowd keeps the connections of a server few. One too many closes the one of which nothing was heard for longest, so that
// a probe is answered however many connections others hold open. Its state method is the server's ConnState.
type crowd struct {
	most  int
	mu    sync.Mutex
	heard map[net.Conn]time.Time // when the connection last began or ended something
}

func newCrowd(most int) *crowd { return &crowd{most: most, heard: map[net.Conn]time.Time{}} }

func (c *crowd) state(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if state == http.StateClosed || state == http.StateHijacked {
		delete(c.heard, conn)
		return
	}
	c.heard[conn] = time.Now()
	if len(c.heard) <= c.most {
		return
	}
	quietest := conn
	for other, at := range c.heard {
		if at.Before(c.heard[quietest]) {
			quietest = other
		}
	}
	delete(c.heard, quietest)
	_ = quietest.Close() // the server sees that it ended
}
