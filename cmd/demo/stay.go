package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"
)

// explainStay says how to look around while everything stays up.
func (w *world) explainStay(ctx context.Context) error {
	log, err := os.ReadFile(w.logPath())
	if err != nil {
		return err
	}
	fmt.Print(stayed(w.nats.URL(), w.postgres.DSN("postgres"), w.postgres.Psql(), w.logPath(), answering(ctx, string(log))))
	return nil
}

// answering are the addresses of the replicas that are still there, as their log
// names them: each has a port of its own that nobody chose, and one was killed.
func answering(ctx context.Context, log string) []string {
	client := http.Client{Timeout: 5 * time.Second}
	var list []string
	for line := range strings.Lines(log) {
		var said struct {
			Message string `json:"msg"`
			Address string `json:"address"`
		}
		if json.Unmarshal([]byte(line), &said) != nil || said.Message != "health and metrics" {
			continue
		}
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+said.Address+"/healthz", nil)
		if err != nil {
			continue
		}
		if response, err := client.Do(request); err == nil {
			response.Body.Close()
			list = append(list, said.Address)
		}
	}
	return list
}

// stayed is what there is to type in another terminal. With the two settings
// README's commands work as they stand there.
func stayed(nats, dsn, psql, logPath string, addresses []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `
Everything stays up until Ctrl-C. In another terminal, in this folder:

  export DATABASE_URL='%s' NATS_URL='%s'

  send an event:       echo '{"request_id":"my-1","channel":{"type":"sms","initiated_by":"api","participants":[{"address":"+15550100","proxy_address":"+15550199"}]},"routing":{"properties":{"workspace_sid":"WS00000000000000000000000000000002","workflow_sid":"WW00000000000000000000000000000003"}}}' |
                         bin/worker send --wait 30s -
  what became of it:   bin/worker explain my-1
  does it all add up:  bin/worker audit
`, dsn, nats)
	for _, a := range addresses {
		fmt.Fprintf(&b, "  a replica's health:  curl http://%s/readyz http://%s/metrics\n", a, a)
	}
	fmt.Fprintf(&b, `  look into the table: %s -c 'SELECT request_id, state, interaction_sid FROM outbox'
  what is not done:    %s -c 'TABLE outbox_backlog'
  the workers' log:    tail -f %s
`, psql, psql, logPath)
	return b.String()
}
