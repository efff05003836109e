package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"flexworker/internal/consumer"
	"flexworker/internal/outbox/request"
	"flexworker/internal/outbox/results"
	"flexworker/internal/terminal"
)

// maxEvent is the largest event that send reads, in bytes: NATS's own default.
const maxEvent = 1 << 20

func sendCommand() *cobra.Command {
	var source string
	var wait days
	cmd := &cobra.Command{
		Use: "send FILE", Short: "Publish the request events of a file, and wait for their results",
		Long: "Publish the request events of a file (- for standard input): JSON objects, one after the\n" +
			"other, each with a request_id, or CloudEvents that carry one in data. Nothing is sent when one of\n" +
			"them could not become a request. With --wait the results are printed as they come, one JSON\n" +
			"object a line. The exit status is 0 when all have come, whatever their outcomes are, and 1 when\n" +
			"one is missing at the end of that time.",
		Args: one("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if wait < 0 {
				return usage(errors.New("--wait must not be negative"))
			}
			events, err := readEvents(args[0], cmd.InOrStdin())
			if err != nil {
				return usage(err)
			}
			return send(cmd, events, source, time.Duration(wait))
		}}
	cmd.Flags().StringVar(&source, "source", "cli", "the sending service: the end of the subject")
	cmd.Flags().Var(&wait, "wait", "wait so long for the results, "+durationForm+" (default 0: do not wait)")
	return cmd
}

// sendEvent is one event of the file.
type sendEvent struct {
	id   string
	text []byte
}

// namedFaults is how many events that cannot be sent are named.
const namedFaults = 20

// readEvents reads all events before the first is sent, so that a fault in the last does
// not leave half of them sent. What a worker would answer as malformed is refused in the
// worker's words; what it would reject is sent, since it has an id and gets an answer.
func readEvents(name string, in io.Reader) ([]sendEvent, error) {
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }() // it was only read
		in = f
	} else {
		name = "standard input"
	}
	text, err := io.ReadAll(in)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	var events []sendEvent
	var faults []error
	line := 1
	for decoder, end := json.NewDecoder(bytes.NewReader(text)), 0; ; {
		rest := bytes.TrimLeft(text[end:], " \t\r\n")
		from := len(text) - len(rest)
		line += bytes.Count(text[end:from], []byte("\n"))
		var event json.RawMessage
		err := decoder.Decode(&event)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			event = rest
		}
		id, malformed := consumer.RequestID(event)
		switch {
		case malformed != nil:
			faults = append(faults, fmt.Errorf("%s, line %d: %w", name, line, malformed))
		case err != nil:
			faults = append(faults, fmt.Errorf("%s, line %d: %w", name, line, err))
		case len(event) > maxEvent:
			faults = append(faults, fmt.Errorf("%s, line %d: has %d bytes, NATS takes at most %d", name, line, len(event), maxEvent))
		}
		if err != nil {
			break // where the next event would begin is not known
		}
		events = append(events, sendEvent{id, event})
		end = int(decoder.InputOffset())
		line += bytes.Count(event, []byte("\n"))
	}
	switch n := len(faults) - namedFaults; {
	case n > 0:
		return nil, errors.Join(append(faults[:namedFaults], fmt.Errorf("%s: and %d more events that cannot be sent", name, n))...)
	case len(faults) > 0:
		return nil, errors.Join(faults...)
	case len(events) == 0:
		return nil, fmt.Errorf("%s has no events", name)
	}
	return events, nil
}

// send publishes the events and prints the results that come within wait.
func send(cmd *cobra.Command, events []sendEvent, source string, wait time.Duration) error {
	if !subjectPattern.MatchString(source) {
		return usage(fmt.Errorf("--source %s: letters, digits, _ and -, in tokens parted by dots", source))
	}
	ctx := cmd.Context()
	cfg, stream, done, err := senderStream()
	if err != nil {
		return err
	}
	defer done()
	var results *awaited
	if wait > 0 {
		if results, err = listen(ctx, stream, cfg, source); err != nil {
			return err
		}
		defer results.stop()
	}
	bar := progress(len(events), "sent")
	sent := make(map[place]string, len(events))
	for _, e := range events {
		m := nats.NewMsg(cfg.RequestsSubject + "." + source)
		m.Data = e.text
		m.Header.Set("Content-Type", "application/json")
		ack, err := stream.PublishMsg(ctx, m)
		if err != nil {
			if errors.Is(err, jetstream.ErrNoStreamResponse) {
				err = usage(fmt.Errorf("no stream takes %s: create %s (REQUESTS_STREAM) with subjects %s.>, or run a worker with CREATE_STREAMS=true; "+
					"if it is there, it has no leader at the moment", m.Subject, cfg.RequestsStream, cfg.RequestsSubject))
			}
			return fmt.Errorf("%s was not sent, nor what stands behind it: %w", e.id, err)
		}
		sent[place{ack.Stream, ack.Sequence}] = e.id
		_ = bar.Add(1) // a bar that cannot be drawn stops nothing
	}
	_ = bar.Finish()
	if wait == 0 {
		return report(cmd, nil, "sent: %d\n", len(events))
	}
	return results.print(ctx, cmd.OutOrStdout(), sent, wait)
}

// senderStream connects with the NATS settings alone: who sends needs no others.
func senderStream() (Config, jetstream.JetStream, func(), error) {
	cfg, faults := loadConfig()
	if err := faultsOf(faults, true, "NATS_", "REQUESTS_", "RESULTS_", "RETENTION"); err != nil {
		return cfg, nil, nil, usage(err)
	}
	if problem := natsProblem(string(cfg.NATSURL)); problem != "" {
		return cfg, nil, nil, usage(fmt.Errorf("NATS_URL %s", problem))
	}
	conn, err := nats.Connect(string(cfg.NATSURL), append(natsOptions(cfg), nats.Name("flexworker send"))...)
	if err != nil {
		return cfg, nil, nil, natsError{err, cfg.NATSURL}
	}
	stream, err := jetstream.New(conn)
	return cfg, stream, conn.Close, err
}

// results are what arrives for one source from now on.
type awaited struct {
	messages chan jetstream.Msg
	context  jetstream.ConsumeContext
}

func listen(ctx context.Context, stream jetstream.JetStream, cfg Config, source string) (*awaited, error) {
	ordered, err := stream.OrderedConsumer(ctx, cfg.ResultsStream, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{results.Subject(cfg.ResultsSubject, "*", source)}, DeliverPolicy: jetstream.DeliverNewPolicy,
		InactiveThreshold: 30 * time.Second, // five minutes otherwise: many sends would leave many consumers on the stream
	})
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, usage(fmt.Errorf("nothing was sent: stream %s (RESULTS_STREAM) does not exist: create it with subjects %s.>, or run a worker with CREATE_STREAMS=true",
			cfg.ResultsStream, cfg.ResultsSubject))
	}
	if err != nil {
		return nil, fmt.Errorf("the results stream %s: %w", cfg.ResultsStream, err)
	}
	r := &awaited{messages: make(chan jetstream.Msg, 1024)}
	r.context, err = ordered.Consume(func(m jetstream.Msg) { r.messages <- m })
	return r, err
}

func (r *awaited) stop() { r.context.Stop() }

// place names a message of the request stream.
type place struct {
	stream   string
	sequence uint64
}

// print writes the answer to each message as it comes, once: of two messages with one
// id each has its own, and the answer to somebody else's message is nobody's here. An
// answer that is not final, uncertain, is written too, and waited beyond. open has the
// ids of the messages that were sent.
func (r *awaited) print(ctx context.Context, out io.Writer, open map[place]string, wait time.Duration) error {
	streams := map[string]bool{}
	for at := range open {
		streams[at.stream] = true
	}
	bar := progress(len(open), "answered")
	over := time.NewTimer(wait)
	defer over.Stop()
	for len(open) > 0 {
		select {
		case <-ctx.Done():
			return no("stopped before all results came")
		case <-over.C:
			missing := slices.Sorted(maps.Values(open))
			return no("no final result within %v for %s: %s (`worker explain ID` tells where each stands)",
				wait, requests(len(open)), strings.Join(missing[:min(len(missing), 20)], " "))
		case m := <-r.messages:
			var result struct {
				RequestID string `json:"request_id"`
				Outcome   string `json:"outcome"`
				Stream    string `json:"stream"`
				Sequence  uint64 `json:"sequence"`
			}
			if json.Unmarshal(m.Data(), &result) != nil {
				continue
			}
			at := place{result.Stream, result.Sequence}
			if !streams[at.stream] {
				// The workers read a stream that has its messages from the one that took
				// these (a source or a mirror), under sequences of its own.
				at = anyOf(open, result.RequestID)
			}
			if _, mine := open[at]; !mine {
				continue
			}
			if _, err := fmt.Fprintf(out, "%s\n", terminal.JSON(m.Data())); err != nil {
				return err
			}
			if request.State(result.Outcome).Final() || result.Outcome == "conflict" || result.Outcome == "malformed" {
				delete(open, at)
				_ = bar.Add(1)
			}
		}
	}
	return bar.Finish()
}

// anyOf is the earliest of the open messages that has this id; the zero place: none has.
func anyOf(open map[place]string, id string) (first place) {
	for at, its := range open {
		if its == id && (first == place{} || at.sequence < first.sequence) {
			first = at
		}
	}
	return first
}

// progress is a bar on a terminal and nothing elsewhere.
func progress(n int, what string) *progressbar.ProgressBar {
	visible := term.IsTerminal(int(os.Stderr.Fd()))
	return progressbar.NewOptions(n, progressbar.OptionSetWriter(os.Stderr), progressbar.OptionSetVisibility(visible),
		progressbar.OptionSetDescription(what), progressbar.OptionShowCount(), progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionClearOnFinish())
}
