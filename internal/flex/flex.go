// Package flex makes one call to Twilio and says what was learned.
package flex
