package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/term"
)

// One worker is killed once killAfter answers have come and it has a call under way, and at the latest after killLatest
// answers, whatever it does then.
const (
	killAfter  = 4
	killLatest = 12
)

// answer is a result as the senders see it.
type answer struct {
	Subject        string `json:"-"`
	RequestID      string `json:"request_id"`
	Outcome        string `json:"outcome"`
	InteractionSID string `json:"interaction_sid"`
	Attempts       int    `json:"attempts"`
	ResolvedBy     string `json:"resolved_by"`
	ErrorText      string `json:"-"`
	Routing        struct {
		AssignmentStatus string `json:"assignment_status"`
	} `json:"routing"`
	Error *struct {
		Message string `json:"message"`
	} `json:"error"`
}

// play sends the cast and shows the requests move until every message is answered.
func (w *world) play(ctx context.Context, cast []message) ([]answer, error) {
	results, err := w.stream.OrderedConsumer(ctx, "INTERACTION_RESULTS", jetstream.OrderedConsumerConfig{})
	if err != nil {
		return nil, err
	}
	arrived := make(chan jetstream.Msg, len(cast)*2)
	listening, err := results.Consume(func(m jetstream.Msg) { arrived <- m })
	if err != nil {
		return nil, err
	}
	defer listening.Stop()
	for _, m := range cast {
		if w.flex != nil && len(m.trial) > 0 {
			w.flex.Script(m.name, m.trial...)
		}
		msg := nats.NewMsg("interactions.requests." + m.source)
		msg.Data = []byte(m.body)
		if _, err := w.stream.PublishMsg(ctx, msg); err != nil {
			return nil, err
		}
	}
	board := newBoard()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var answers []answer
	for len(answers) < len(cast) {
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("only %d of %d messages were answered: %w", len(answers), len(cast), context.Cause(ctx))
		case m := <-arrived:
			a := read(m)
			if a.Outcome == "uncertain" && !slices.ContainsFunc(cast, func(m message) bool { return m.name == a.RequestID && m.want == a.Outcome }) {
				continue // a person would be asked; the final answer follows
			}
			answers = append(answers, a)
		case <-tick.C:
			if err := w.show(ctx, board); err != nil {
				return nil, err
			}
		}
		if w.flex != nil && w.killed == nil && len(answers) >= killAfter {
			if err := w.killOnce(ctx, board, len(answers) >= killLatest); err != nil {
				return nil, err
			}
		}
	}
	err = w.show(ctx, board)
	board.end()
	return answers, err
}

// killOnce kills one worker as a crash would, if it has a call under way or anyhow is set, and says what it leaves behind.
func (w *world) killOnce(ctx context.Context, b *board, anyhow bool) error {
	victim := w.workers[0]
	leases := func() (n int, err error) {
		// A worker is named HOST-PID-RANDOM.
		err = w.pool.QueryRow(ctx, `SELECT count(*) FROM outbox WHERE state = 'sending' AND leased_by LIKE '%-' || $1::text || '-%'`, strconv.Itoa(victim.Process.Pid)).Scan(&n)
		return n, err
	}
	if n, err := leases(); err != nil || n == 0 && !anyhow {
		return err
	}
	if err := victim.Process.Kill(); err != nil {
		return err
	}
	w.killed = victim
	_ = victim.Wait() // it was killed
	n, err := leases()
	if err != nil {
		return err
	}
	if n == 0 {
		b.say("one of the two replicas is killed with SIGKILL; it had no call under way")
		return nil
	}
	b.say(fmt.Sprintf("one of the two replicas is killed with SIGKILL and leaves requests in state sending: %d.", n))
	b.say("After 8 s their leases run out, and the other replica finds out through TaskRouter whether the interactions exist.")
	return nil
}

func read(m jetstream.Msg) answer {
	a := answer{Subject: m.Subject()}
	_ = json.Unmarshal(m.Data(), &a) // what cannot be read fails the account
	if a.Error != nil {
		a.ErrorText = a.Error.Message
	}
	return a
}

// board shows where the requests stand: on a terminal as a line that changes,
// elsewhere as a line for each change.
type board struct {
	terminal bool
	begun    time.Time
	last     string
}

func newBoard() *board {
	return &board{terminal: term.IsTerminal(int(os.Stdout.Fd())), begun: time.Now()}
}

func (b *board) line(text string) {
	if text == b.last {
		return
	}
	b.last = text
	stamp := fmt.Sprintf("%5.1fs  ", time.Since(b.begun).Seconds())
	if b.terminal {
		fmt.Print("\r\x1b[K", stamp, text)
		return
	}
	fmt.Println(stamp + text)
}

// say writes a line that stays.
func (b *board) say(text string) {
	if b.terminal {
		fmt.Print("\r\x1b[K")
	}
	fmt.Println("        " + text)
}

func (b *board) end() {
	if b.terminal {
		fmt.Println()
	}
}

// show asks the table how many requests stand where.
func (w *world) show(ctx context.Context, b *board) error {
	rows, err := w.pool.Query(ctx, `
		SELECT s.state, count(o.id) FROM unnest(ARRAY['pending','sending','uncertain','created','rejected','expired']) WITH ORDINALITY AS s (state, n)
		  LEFT JOIN outbox o USING (state) GROUP BY s.state, s.n ORDER BY s.n`)
	if err != nil {
		return err
	}
	defer rows.Close()
	var parts []string
	for rows.Next() {
		var state string
		var n int
		if err := rows.Scan(&state, &n); err != nil {
			return err
		}
		parts = append(parts, fmt.Sprintf("%s %2d", state, n))
	}
	b.line(strings.Join(parts, "   "))
	return rows.Err()
}
