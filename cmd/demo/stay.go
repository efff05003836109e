package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"flexworker/internal/terminal"
)

// explainStay says how to look around while everything stays up.
func (w *world) explainStay(ctx context.Context) {
	addresses := answering(ctx, w.door)
	fmt.Print(stayed(w.environment(replicas-1), w.flex == nil, w.postgres.Psql(), w.logPath(), addresses))
}

// answering are the addresses of the replicas that are still there: one was killed.
func answering(ctx context.Context, d door) []string {
	client := http.Client{Timeout: 5 * time.Second}
	var list []string
	for replica := range replicas {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+d.address(replica)+"/healthz", nil)
		if err != nil {
			continue
		}
		if response, err := client.Do(request); err == nil {
			response.Body.Close()
			list = append(list, d.address(replica))
		}
	}
	return list
}

// stayed is what there is to type in another terminal. With the settings of the replicas
// README's commands, and every verb of the worker, work as they stand there. Real credentials
// are not shown.
func stayed(environment []string, real bool, psql, logPath string, addresses []string) string {
	var b strings.Builder
	set := map[string]string{}
	for _, setting := range environment {
		name, value, _ := strings.Cut(setting, "=")
		set[name] = value
	}
	fmt.Fprintf(&b, "\nEverything stays up until Ctrl-C. The page:\n\n  http://%s/   name: yours   token: %s\n", set["ADMIN_ADDR"], set["ADMIN_TOKEN"])
	b.WriteString("\nIn another terminal, in this folder. In what is printed and on the page, `worker` stands for bin/worker with these settings:\n\n")
	for _, setting := range environment {
		switch name, _, _ := strings.Cut(setting, "="); {
		case name == "PATH", strings.HasSuffix(name, "_PROXY"): // that terminal has its own
		case real && strings.HasPrefix(name, "TWILIO_"):
			fmt.Fprintf(&b, "  export %s=...   # as you gave it to the demo\n", name)
		default:
			fmt.Fprintf(&b, "  %s\n", terminal.Command("export", setting))
		}
	}
	b.WriteString(`
  send an event:       echo '{"request_id":"my-1","channel":{"type":"sms","initiated_by":"api","participants":[{"address":"+15550100","proxy_address":"+15550199"}]},"routing":{"properties":{"workspace_sid":"WS00000000000000000000000000000002","workflow_sid":"WW00000000000000000000000000000003"}}}' |
                         bin/worker send --wait 30s -
  what became of it:   bin/worker explain my-1
  the fleet:           bin/worker status; bin/worker fleet; bin/worker healthcheck --ready
  does it all add up:  bin/worker audit
  one replica more:    ADMIN_ADDR=127.0.0.1:0 bin/worker
`)
	for _, a := range addresses {
		fmt.Fprintf(&b, "  a replica's health:  curl http://%s/readyz http://%s/metrics\n", a, a)
	}
	fmt.Fprintf(&b, `  look into the table: %s -c 'SELECT request_id, state, interaction_sid FROM outbox'
  what is not done:    %s -c 'TABLE outbox_backlog'
  the workers' log:    tail -f %s
`, psql, psql, logPath)
	return b.String()
}
