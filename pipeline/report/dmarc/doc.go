// Package dmarc writes and reads DMARC aggregate reports: the XML document alone, without the mail around it.
//
// What is written is the form of RFC 7489 appendix C without a namespace, which is how the large receivers have written it
// since 2012 and what every reader takes. RFC 9990 has a form of its own with a namespace, in which pct, "forwarded" and
// "sampled_out" are no more; readers of the old form refuse it, readers of the new one still have to live with the old.
// What is read is either form, with or without a namespace.
//
// Reports that are read come from strangers. Read never expands anything: a document type declaration and an entity that XML itself
// does not have are errors. It takes documents in one pass, holds each element to a number of tokens and a
// depth, and keeps at most MaxRecords records; whatever is kept is one line of printable text of bounded length. An error
// says what is wrong with the document; a record that makes no sense is left out and counted.
//
// The caller bounds the octets (package report does).
package dmarc
