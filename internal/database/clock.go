package database

// Ahead is later than any moment of the past: the clock has gone back since it said so.
// A clock that is set right by less is none that went back.
const Ahead = `> now() + interval '10 seconds'`
