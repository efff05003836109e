// Command go is an example for a service that sends interaction requests: it reads one request from standard input, sends
// it, and reads the results of its source with a durable consumer until the final answer to its own message has come. Answers to
// that message go to standard output; what it reads before them is named on standard error. With arguments it asks a worker
// where a request is, or to take it back, and prints the answer.
//
//	export NATS_URL=nats://127.0.0.1:4222
//	go run ./examples/go < request.json
//	go run ./examples/go status crm-42-callback
//	go run ./examples/go cancel crm-42-callback "the customer called"
//
// A service of yours keeps what it has sent, and what it has read, in its own database: see the comments of book.
// docs/sending.md tells the rest.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// source is the sending service: the end of the subjects of its requests and results, and the name of its consumer.
const source = "crm"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, args []string) error {
	conn, err := nats.Connect(cmp.Or(os.Getenv("NATS_URL"), nats.DefaultURL), nats.Name(source),
		nats.CustomInboxPrefix("_INBOX."+source), // what comes to others cannot be read under it
		nats.MaxReconnects(-1))                   // otherwise the client gives up after two minutes
	if err != nil {
		return err
	}
	defer conn.Close()
	switch {
	case len(args) == 0:
		return sendAndRead(ctx, conn)
	case len(args) == 2 && args[0] == "status":
		return ask(ctx, conn, args[0], map[string]string{"request_id": args[1]})
	case len(args) == 3 && args[0] == "cancel":
		return ask(ctx, conn, args[0], map[string]string{"request_id": args[1], "why": args[2]})
	default:
		return errors.New("the arguments are: none, with a request on standard input; or status ID; or cancel ID WHY")
	}
}

func sendAndRead(ctx context.Context, conn *nats.Conn) error {
	body, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	js, err := jetstream.New(conn)
	if err != nil {
		return err
	}
	// A new consumer begins with the oldest result that the stream has; afterwards the server knows how far the service has read.
	// Each pod of the service opens the same one, and each result goes to one of them.
	consumer, err := js.CreateOrUpdateConsumer(ctx, "INTERACTION_RESULTS", jetstream.ConsumerConfig{
		Durable:       source,
		FilterSubject: "interactions.results.*." + source,
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       30 * time.Second, // longer than the service takes to commit
	})
	if err != nil {
		return fmt.Errorf("the results: %w", err)
	}
	sent, err := send(ctx, js, body)
	if err != nil {
		return err
	}
	return read(ctx, consumer, sent)
}

// A message of the request stream, as its sender knows it from the PubAck.
type message struct {
	Stream   string `json:"stream"`
	Sequence uint64 `json:"sequence"`
}

// send publishes a request and waits until the stream has it. Until then nothing is sent: an error means that it may be there
// or not, and to send the same again under the same request_id is safe.
func send(ctx context.Context, js jetstream.JetStream, body []byte) (message, error) {
	m := nats.NewMsg("interactions.requests." + source)
	m.Data = body
	m.Header.Set("Content-Type", "application/json")
	ack, err := js.PublishMsg(ctx, m)
	if err != nil {
		return message{}, fmt.Errorf("not acknowledged: %w", err)
	}
	if ack.Duplicate { // only with a Nats-Msg-Id header: the stream has dropped this message, and nobody will answer it
		return message{}, fmt.Errorf("dropped by the stream as a repeat of message %d", ack.Sequence)
	}
	fmt.Fprintf(os.Stderr, "sent: message %d of %s\n", ack.Sequence, ack.Stream)
	return message{ack.Stream, ack.Sequence}, nil
}

// A result, as far as this service needs it. Keys that it does not know are passed over.
type result struct {
	message                // that this answers
	RequestID      *string `json:"request_id"` // nil: malformed, without a usable one
	Outcome        string  `json:"outcome"`
	InteractionSID *string `json:"interaction_sid"`
	Revision       int     `json:"revision"` // conflict and malformed have none
	Error          *struct {
		Kind    string `json:"kind"`
		Message string `json:"message"`
	} `json:"error"`
}

// ended says whether the request has come to its end.
func (r result) ended() bool {
	return slices.Contains([]string{"created", "rejected", "abandoned", "expired", "cancelled"}, r.Outcome)
}

// answered says whether no other answer to the same message follows by itself. Other words may follow an outcome, or come
// with a later version: they are passed over.
func (r result) answered() bool {
	return r.ended() || r.Outcome == "conflict" || r.Outcome == "malformed" // which say nothing about a request
}

// replaces says whether r stands, of two results of one request. Results may come twice, and in any order.
func (r result) replaces(known result) bool {
	return r.Revision > known.Revision || r.Revision == known.Revision && r.ended() && !known.ended()
}

// read keeps every result of the source, until the final answer to the sent message is among them.
func read(ctx context.Context, consumer jetstream.Consumer, sent message) error {
	book := map[string]result{} // by request id; a table of yours
	messages, err := consumer.Messages()
	if err != nil {
		return err
	}
	defer messages.Stop()
	defer context.AfterFunc(ctx, messages.Stop)()
	for {
		m, err := messages.Next()
		if errors.Is(err, jetstream.ErrMsgIteratorClosed) {
			return context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		var r result
		if err := json.Unmarshal(m.Data(), &r); err != nil {
			return fmt.Errorf("%s is no result: %w", m.Subject(), err)
		}
		if r.ended() || r.Outcome == "uncertain" {
			if known, there := book[*r.RequestID]; !there || r.replaces(known) {
				book[*r.RequestID] = r // yours: in one transaction with what the service does about it
			}
		}
		// After the commit. What is not acknowledged, as after a crash here, comes again after AckWait.
		if err := m.DoubleAck(ctx); err != nil {
			fmt.Fprintf(os.Stderr, "comes again: %v\n", err)
		}
		if r.message != sent { // the answer to another message, such as one of an earlier run
			fmt.Fprintf(os.Stderr, "kept: %s, the answer to message %d\n", r.Outcome, r.Sequence)
			continue
		}
		fmt.Printf("%s\n", m.Data())
		if r.answered() {
			return nil
		}
	}
}

const (
	askFor   = 30 * time.Second       // how long a question is asked again
	askLimit = 5 * time.Second        // how long one answer may take
	askAgain = 200 * time.Millisecond // the pause between two
)

// ask puts a question to any worker, and prints its answer. A message that no worker has read yet is not known (404), also when
// its PubAck has come: so ask asks again. What is not known after askFor has another id, or another source, or no worker runs.
// To cancel again is safe: the answer is the same.
func ask(ctx context.Context, conn *nats.Conn, question string, body map[string]string) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	over, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	for said := ""; ; {
		answer, err := askOnce(over, conn, "interactions."+question+"."+source, text)
		if err == nil {
			fmt.Printf("%s\n", answer)
			return nil
		}
		if final := (refusal{}); errors.As(err, &final) && final.code != "404" && final.code != "503" {
			return err // the question itself is wrong
		}
		if err.Error() != said {
			said = err.Error()
			fmt.Fprintf(os.Stderr, "asking again: %s\n", said)
		}
		select {
		case <-time.After(askAgain):
		case <-over.Done():
			return err
		}
	}
}

// A refusal is an answer that is none to the question.
type refusal struct{ code, message string }

func (r refusal) Error() string { return r.code + ": " + r.message }

func askOnce(ctx context.Context, conn *nats.Conn, subject string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	m, err := conn.RequestWithContext(ctx, subject, body)
	if err != nil {
		return nil, err // no worker runs, or the answer was lost
	}
	if code := m.Header.Get("Nats-Service-Error-Code"); code != "" {
		return nil, refusal{code, m.Header.Get("Nats-Service-Error")}
	}
	return m.Data, nil
}
