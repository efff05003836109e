package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"flexworker/internal/terminal"
)

// exportsFile is where the settings of the replicas are written, beside the program: a terminal in the folder from which make
// has started it reads bin/demo.exports.
const exportsFile = "demo.exports"

// explainStay says how to look around while everything stays up. The returned function removes what it has written.
func (w *world) explainStay(ctx context.Context) (remove func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	environment := w.environment(replicas - 1)
	text := exports(environment, w.flex == nil)
	path, remove, err := writeExports(filepath.Dir(self), text)
	if err != nil {
		return nil, err
	}
	fmt.Print(stayed(environment, path, w.flex == nil, w.postgres.Psql(), w.logPath(), answering(ctx, w.door)))
	return remove, nil
}

// writeExports writes the file that another terminal reads, for this user alone: it has a password and a token. path is as one
// types it in this folder. remove leaves the file of a demo that was begun later.
func writeExports(folder, text string) (path string, remove func(), err error) {
	file := filepath.Join(folder, exportsFile)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return "", nil, err
	}
	remove = func() {
		if now, err := os.ReadFile(file); err == nil && string(now) == text {
			_ = os.Remove(file) // what stays is overwritten by the next demo
		}
	}
	if here, err := os.Getwd(); err == nil {
		if near, err := filepath.Rel(here, file); err == nil && filepath.IsLocal(near) {
			return near, remove, nil
		}
	}
	return file, remove, nil
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

// exports are the settings of the replicas as a shell reads them. With them README's commands, and every verb of the worker,
// work as they stand there. Real credentials are not among them.
func exports(environment []string, real bool) string {
	var b strings.Builder
	for _, setting := range environment {
		switch name, _, _ := strings.Cut(setting, "="); {
		case name == "PATH", strings.HasSuffix(name, "_PROXY"): // that terminal has its own
		case real && strings.HasPrefix(name, "TWILIO_"):
			fmt.Fprintf(&b, "# %s: export it as you gave it to the demo\n", name)
		default:
			b.WriteString(terminal.Command("export", setting) + "\n")
		}
	}
	return b.String()
}

// stayed is what there is to type in another terminal, which reads the exports at path first.
func stayed(environment []string, path string, real bool, psql, logPath string, addresses []string) string {
	var b strings.Builder
	set := map[string]string{}
	for _, setting := range environment {
		name, value, _ := strings.Cut(setting, "=")
		set[name] = value
	}
	fmt.Fprintf(&b, "\nEverything stays up until Ctrl-C. The page:\n\n  http://%s/   name: yours   token: %s\n", set["ADMIN_ADDR"], set["ADMIN_TOKEN"])
	fmt.Fprintf(&b, "\nIn another terminal, in this folder, type first:\n\n  %s\n", terminal.Command("source", path))
	if real {
		b.WriteString("  and export your credentials as you gave them to the demo\n")
	}
	b.WriteString("\nIt exports the settings of the replicas: in what is printed and on the page, `worker` stands for bin/worker with them.\n")
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
