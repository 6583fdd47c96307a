// Package audit makes the account of an instance for somebody who was not
// there: which image ran when, on which servers, who brought it there and why,
// what its checks said, and every time that a server was opened, changed,
// disturbed or replaced. It is made from the journal alone, which is read once
// from its beginning, and it is a value: JSON, CSV and a printable page are made
// from it.
package audit
