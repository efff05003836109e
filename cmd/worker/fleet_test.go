package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/faultproxy"
	"flexworker/internal/testing/flextest"
)

// TestFleetCommand: an operator sees who runs, with which word, and where settings
// differ; one restarted with an old FLEX_RATE changes nothing; a rate by hand stays
// until it is taken back. A worker that stops takes its row with it.
func TestFleetCommand(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	cfg := r.config()
	cfg.FlexRate = 30
	w1 := r.start(cfg)
	r.says(cfg.AdminAddr, "ok", 200)
	old := r.config()
	old.FlexRate, old.Confirm = 5, true
	w2 := r.start(old)
	r.says(old.AdminAddr, "ok", 200)
	env := r.environment()
	expect.Eventually(t, func() error {
		return expect.Is("rows that say ok", r.count(`SELECT count(*) FROM outbox_replicas WHERE state = 'ok'`), 2)
	})
	r.types(env, typed{[]string{"fleet"}, 0, []string{"NAME", "ok", "Rate: 30 attempts a second.", "FLEX_RATE differs: 30 (", "; 5 (", "stays as it was", "Only where no rate was ever set, as on a new database, the lowest is taken.",
		"CONFIRM differs: false (", "; true, 5 reads a second ("}},
		typed{[]string{"fleet", "--json"}, 0, []string{`"rate": 30`, `"FLEX_RATE": "5"`, `"setting": "FLEX_RATE"`}},
		typed{[]string{"rate", "25"}, 2, []string{"why"}},
		typed{[]string{"rate", "--why", "x"}, 2, []string{"either a number", "--auto"}},
		typed{[]string{"rate", "25", "--auto", "--why", "x"}, 2, []string{"either a number"}},
		typed{[]string{"rate", "NaN", "--why", "x"}, 2, []string{"is not a number of attempts"}},
		typed{[]string{"rate", "25", "--why", "a campaign", "--by", "ann"}, 0, []string{"rate: 25 attempts a second", "more than the 20 a second that Twilio publishes"}},
		typed{[]string{"fleet"}, 0, []string{"Rate: 25 attempts a second, set by ann", "`worker rate --auto --why ...`"}})
	w2.stop()
	w2.wait()
	r.types(env, typed{[]string{"rate", "--auto", "--why", "it is over"}, 0, []string{"follows FLEX_RATE"}})
	expect.Eventually(t, func() error { return expect.Is("the rate", r.count(`SELECT rate::int FROM outbox_gate`), 30) })
	if n := r.count(`SELECT count(*) FROM outbox_replicas`); n != 1 {
		t.Errorf("%d workers have a row, one runs", n)
	}
	w1.stop()
	w1.wait()
	if n := r.count(`SELECT count(*) FROM outbox_replicas`); n != 0 {
		t.Errorf("%d workers have a row, none runs", n)
	}
}

// TestGone: a worker that was killed is still listed for an hour, by status as by fleet, as gone. Its last word is told
// as that, not as the reason why it is gone.
func TestGone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	env := r.environment()
	r.types(env, typed{[]string{"status"}, 0, []string{"Replicas: 0\n"}})
	const insert = `INSERT INTO outbox_replicas (name, version, state, reason, seen_at, lookup_settle, flex_timeout, flex_rate, uncertain_policy, retention)
		VALUES ($1, 'v1', $2, $3, clock_timestamp() - $4::interval, '1min', '15s', 10, 'hold', '1h')`
	r.must(insert, "w-killed", "nats", "the streams were not reached yet", "10 minutes")
	r.must(insert, "w-alive", "ok", nil, "0")
	_, status, _ := r.try(env, "status")
	for _, want := range []string{"Replicas: 1, and 1 gone within the last hour\n", "w-alive   ok    ", "w-killed  gone  10m", " ago  last seen as nats\n"} {
		if !strings.Contains(status, want) {
			t.Errorf("status lacks %q:\n%s", want, status)
		}
	}
	r.types(env, typed{[]string{"fleet"}, 0, []string{"w-alive", "w-killed", "gone", "last seen 10m", " ago as nats: the streams were not reached yet\n"}})
}

// TestOneBadReplica: of three replicas one loses its way to Flex, or its token is no
// longer right. It stops alone, is not ready, says why in `worker fleet` and leaves the
// messages to the others; no request pays an attempt for it. It goes on by itself.
func TestOneBadReplica(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ word, why string }{{"unreachable", "connection refused"}, {"unauthorized", "HTTP 401"}} {
		t.Run(tt.word, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			in := r.read()
			r.flex.Set(flextest.Settings{Latency: 5 * time.Millisecond})
			way := faultproxy.New(t, strings.TrimPrefix(r.flex.URL(), "http://"))
			token := filepath.Join(t.TempDir(), "token")
			write := func(text string) {
				if err := os.WriteFile(token, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			write(flextest.AuthToken)
			var addresses []string
			var bad Config
			for range 3 {
				bad = r.config()
				bad.FlexRate = 60
				if len(addresses) == 2 {
					bad.FlexURL, bad.TaskRouterURL, bad.TwilioAuthToken = "http://"+way.Addr(), "http://"+way.Addr(), Secret{&secret{file: token}}
				}
				r.start(bad)
				r.says(bad.AdminAddr, "ok", 200)
				addresses = append(addresses, bad.AdminAddr)
			}
			every := time.NewTicker(time.Second / 60)
			defer every.Stop()
			const all, spoilt = 600, 100
			for i := range all {
				<-every.C
				if i == spoilt && tt.word == "unreachable" {
					way.Refuse()
				} else if i == spoilt {
					write("an-old-token")
				}
				r.send("r", i, i+1)
			}
			in.balanced(all)
			r.says(bad.AdminAddr, tt.word, 503)
			for _, address := range addresses[:2] {
				r.says(address, "ok", 200)
			}
			// A call that was just under way when the connection broke may have arrived.
			if n := r.count(`SELECT count(*) FROM outbox WHERE attempt - uncounted <> 1 AND id NOT IN (SELECT outbox_id FROM outbox_attempts WHERE outcome = 'uncertain')`); n != 0 {
				t.Errorf("%d requests paid for it: %s", n, r.states())
			}
			if n := r.count(`SELECT count(*) FROM outbox WHERE uncounted > 0`); n == 0 || n > 100 {
				t.Errorf("%d requests met it: %s", n, r.states())
			}
			expect.Eventually(t, func() error { // a replica writes its row now and then: the rows of the others may say limited for a while
				return expect.Is("rows that say so", r.count(`SELECT count(*) FROM outbox_replicas WHERE state = 'ok' OR state = $1 AND reason LIKE '%' || $2 || '%'`, tt.word, tt.why), 3)
			})
			r.types(r.environment(), typed{[]string{"fleet"}, 0, []string{tt.word, tt.why, "ok"}})
			t.Logf("seconds from receipt to settled, p50, p90, p99, most: %s", r.text(`SELECT percentile_cont(ARRAY[0.5, 0.9, 0.99, 1]) WITHIN GROUP (ORDER BY extract(epoch FROM settled_at - received_at))::text FROM outbox`))
			way.Heal()
			write(flextest.AuthToken)
			r.says(bad.AdminAddr, "ok", 200)
		})
	}
}

// TestBadFromTheStart: a replica that starts with a bad secret, or without a way to
// Flex, is never ready, also while there is nothing to send.
func TestBadFromTheStart(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	denied, away := r.config(), r.config()
	denied.TwilioAuthToken = secretOf("an-old-token")
	away.FlexURL, away.TaskRouterURL = "http://127.0.0.1:1", "http://127.0.0.1:1"
	r.start(denied)
	r.start(away)
	r.says(denied.AdminAddr, "unauthorized", 503)
	r.says(away.AdminAddr, "unreachable", 503)
	r.send("s", 0, 3) // they store it all the same: there is nobody else
	expect.Eventually(t, func() error {
		return expect.Is("stored", r.count(`SELECT count(*) FROM outbox WHERE state = 'pending'`), 3)
	})
	expect.Eventually(t, func() error {
		return expect.Is("rows that say so", r.count(`SELECT count(*) FROM outbox_replicas WHERE reason ~ 'HTTP 401|connection refused'`), 2)
	})
	r.types(r.environment(), typed{[]string{"explain", "s-0"}, 0, []string{"But no worker gets on", "is unauthorized since", "HTTP 401", "is unreachable since", "\n    worker fleet\n"}})
	in := r.read()
	good := r.unhurried()
	r.start(good)
	in.balanced(3)
	if n := r.count(`SELECT count(*) FROM outbox_attempts`); n != 3 {
		t.Errorf("%d attempts, want 3", n)
	}
}

// text runs a query for one text.
func (r *rig) text(sql string) (text string) {
	r.t.Helper()
	if err := r.pool.QueryRow(r.t.Context(), sql).Scan(&text); err != nil {
		r.t.Error(err)
	}
	return text
}

// TestFailing: Flex takes longer to answer than FLEX_TIMEOUT, though it can be read; or
// TaskRouter answers 500. /readyz says so, `worker fleet` says why, the log says it once,
// and gauges show it. When it is over all is as before.
func TestFailing(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		begin func(*flextest.Server)
		why   string
	}{
		{"slow creates", func(f *flextest.Server) { f.Inject(flextest.Rule{Fault: flextest.Hang}) }, "Flex can be read"},
		{"TaskRouter", func(f *flextest.Server) {
			f.SetTaskRouter(flextest.TaskRouter{Trouble: flextest.Status(500), EventTrouble: flextest.Status(500)})
			f.Script("f-0", flextest.CreateThenReset)
			f.Script("f-1", flextest.CreateThenReset)
		}, "TaskRouter cannot be asked"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			in := r.read()
			cfg := r.config()
			cfg.FlexTimeout, cfg.LookupSettle = time.Second, 4*time.Minute
			r.start(cfg)
			r.says(cfg.AdminAddr, "ok", 200)
			tt.begin(r.flex)
			r.send("f", 0, 8)
			sending := r.load() // so that calls are made
			r.says(cfg.AdminAddr, "failing", 200)
			expect.Eventually(t, func() error {
				return expect.Is("rows that say so", r.count(`SELECT count(*) FROM outbox_replicas WHERE state = 'failing' AND reason LIKE '%' || $1 || '%'`, tt.why), 1)
			})
			expect.Eventually(t, func() error {
				metrics, err := scrape(cfg.AdminAddr)
				if err == nil && !strings.Contains(metrics, "flexworker_replica{state=\"failing\"} 1\n") {
					err = errors.New(metrics)
				}
				return err
			})
			sending.stop()
			r.flex.Clear()
			r.flex.SetTaskRouter(flextest.TaskRouter{})
			r.flex.Release()
			r.send("g", 0, 2)
			r.says(cfg.AdminAddr, "ok", 200)
			expect.Eventually(t, func() error {
				if n := in.ended(); n < 2 {
					return fmt.Errorf("%d are answered", n)
				}
				return nil
			})
		})
	}
}

// scrape reads /metrics.
func scrape(address string) (string, error) {
	response, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return string(text), err
}
