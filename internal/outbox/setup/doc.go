// Package setup finds out whether Flex has set up the channel of a created request: CONFIRM.
//
// Creation is asynchronous at Twilio. A Confirmer looks at each created request 2, 5, 15 and 60 seconds after its
// creation: at the channels of the interaction, at the channel's participants where the request named some, and at the task.
// Look.Judge, which is pure, makes one word of what was seen: confirmed, setup_failed or unconfirmed. The word is kept in
// outbox_setups and published by package results, once for each request.
//
// Where the rows come from: the statement that marks a result created as published writes the row of outbox_setups in the
// same transaction, where results.Outgoing.FirstLook says so. The statement that records an outcome is not touched, so a create costs
// the same with CONFIRM and without. Response, lookup and a person's resolve all come through that one mark. A mark that is lost
// in a crash is made again, since the result is published again, and its row with it. The word follows the result created.
//
// A look owns no row. It postpones the next one past its own limit. Of two looks at once the first that is stored counts. A crash costs
// a repetition. All replicas together keep to CONFIRM_RATE, by one row, outbox_confirmation. It is apart from the gate,
// so that no claim waits for it. Reads have connections of their own, are not made while the gate is paused by a 429,
// and a 429 to one of them makes all of them later. A look that Flex puts off like that does not count, for an hour.
//
// Where Flex refuses the reads of several requests in a row although it takes the credentials, confirmation turns itself off for the fleet: all words are
// unconfirmed, without a read, but for one an hour, which turns it on again when it is answered.
//
// A word that is there is never changed. What waits while CONFIRM is turned off is looked at once it is on again.
package setup
