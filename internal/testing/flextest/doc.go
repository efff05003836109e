// Package flextest is Flex and TaskRouter on one machine, as strict as the real
// ones are said to be, and able to fail in every way that a client has to
// survive. It serves tests, the demo, benchmarks and, run by cmd/endpoint,
// other processes. It is the outside world: it knows nothing of the worker.
//
// What it created, its ledger, is the truth by which a client is judged.
//
//	srv := flextest.New(t, flextest.CreateThenReset)       // the first create call
//	srv.Next(flextest.Status(429).RetryAfter("3600"))      // the next one
//	srv.Script("crm-42", flextest.Hang, flextest.None)     // the calls that carry this key
//	srv.Inject(flextest.Rule{Fault: flextest.CreateThen(flextest.Status(503)), Share: 0.1})
//	srv.SetTaskRouter(flextest.TaskRouter{Lag: time.Minute, NullAttributes: true})
//	srv.Down(); srv.Up()
//	srv.Wait(ctx, func(c flextest.Calls) bool { return c.Created == 100 })
//	srv.Ledger(); srv.Duplicates(); srv.Violations(); srv.Calls()
//
// # What it imitates, and how surely
//
// The source is twilio.md, by section. Where that says uncertain, the server
// takes the reading that is harder on a client, or has a switch for both.
//
//	POST /v1/Interactions      §2 form, Basic authentication; documented. 200, or 201 by Settings.Status (§1).
//	  Channel                  §3 documented; voice refused and enum values lower case only: uncertain, strict here.
//	                           An email participant needs a level: the sample has one, strict here.
//	  Routing                  §4 documented; workflow_sid may be left out. At most 4,096 characters of attributes,
//	                           counted as they came: what exactly is counted is uncertain.
//	  the answer               §5 attributes an object on the way in, a JSON text on the way out; ours in order and as
//	                           written, then Twilio's. A name that Twilio writes is Twilio's.
//	  errors                   §7 body documented. Which of 45xxx goes with which status is uncertain: content gets
//	                           20001. 415, 411, 408, 502 and 504 carry no code.
//	  429                      §7 beyond Settings.Concurrency in flight; off by default, the number is not published.
//	GET /v1/Interactions/{KD}  §6 documented. GET without a sid does not exist: 405.
//	POST .../Channels/{UO}     §6 Status and Routing documented; 80906 for one that is closed: its status, 409, is a guess.
//	GET /v1/Configuration      documented: status, account and workspace. See Setup.
//	GET .../Workflows          documented; one page.
//	GET .../{KD}/Channels      §6 one channel each; status, error_code and error_message: documented. Whether they can be read at all is uncertain:
//	                           Settings.SetupTrouble refuses. How long a set-up takes: Settings.SetupAfter, zero by default. What
//	                           becomes of it: Fate, by Settings.SetupFates; a cancelled task leaves the channel active (§6).
//	GET .../{UO}/Participants  §6 a customer for each that was named, or the one of a customer's own channel; and an agent.
//	GET .../Tasks              §8 three searches a second: documented, scope uncertain, here the whole server. == with
//	                           one value: documented. IN and OR: uncertain, TaskRouter.NoLists turns them off. All else
//	                           (AND, parentheses, paths, a hyphen even in quotes) matches nothing, without an error.
//	                           Attributes in lists: uncertain, TaskRouter.NullAttributes. Page: refused, 40153.
//	GET .../Tasks/{WT}         §8 always with attributes; not subject to the lag.
//	GET .../Events             §8 task.created only; the last 15 minutes without dates; no paging; attributes as they
//	                           were at the creation: inferred; their place, event_data.task_attributes: uncertain.
//	                           Newest first: a guess.
//
// Delays (TaskRouter.Lag, EventLag) are undocumented, hence zero by default. A
// completed task is deleted after five minutes, which is documented; Age makes
// five minutes pass at once. Addresses in answers name hosts that never resolve:
// a client builds its own.
//
// # Faults
//
// See Fault for how they are written and the constants for what they do. Each
// exists twice, failed, and failed although it happened. Only the second kind
// names a sid: a 2xx for nothing never does. A fault of the first kind comes
// before any check, so a call without credentials meets it as well; one of the
// second kind needs a call that would have been accepted. A call that is not
// read to its end, because it would be refused, may lack the key for a Script.
// Options html and foreign are what a gateway answers by itself: no trait of Twilio
// is in it.
//
// Outages are methods: Down, BlackHole, Up. TaskRouter and fetches fail by
// TaskRouter.Trouble, EventTrouble, Settings.FetchTrouble and CloseTrouble, in the same words.
//
// # Violations
//
// What no client may ever do (§10) is refused and noted: Idempotency-Key and its
// kin, Expect, a body of unknown length, following a redirect, changing a task
// through TaskRouter, paging by number, closing a conversation that another
// interaction has. New fails the test that ends with one.
//
// # The control API
//
// For other processes; without credentials, so for test networks only. Bodies
// are JSON, durations text like "1m30s"; what a body does not name stays as it
// is, and a name that does not exist is refused. Remote is a client.
//
//	GET    /_control/healthz      200 once it serves
//	GET    /_control/ledger       JSON lines of Entry, after the n-th with ?after=n
//	GET    /_control/counts       Calls
//	GET    /_control/duplicates   keys created more than once
//	GET    /_control/violations
//	POST   /_control/faults       {"fault":"create-then-503; html","share":0.1,"times":5,"channel":"sms"}, see Rule; or
//	                              {"next":["reset",""]}, {"key":"crm-42","script":["hang"]}, {"down":"5s"}, {"hole":"5s"}
//	DELETE /_control/faults       no faults any more
//	POST   /_control/release      calls that hang go on
//	POST   /_control/credentials  {"credentials":[{"user":"AC…","secret":"…"}],"suspended":false}; {} puts back the first ones
//	GET, POST /_control/settings    Settings
//	GET, POST /_control/taskrouter  TaskRouter
//	POST   /_control/tasks        {"complete":NAME}, forget, copy, {"overwrite":NAME,"attributes":"{}"}, {"age":"5m"};
//	                              NAME is a WT or KD sid, a key or a test id
package flextest
