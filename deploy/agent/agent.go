// Package agent is the part of defx that runs on a machine, and the only one that writes
// there. Requests arrive as frames over the connection that a transport provides.
//
// It knows files, ownership and fencing. It refuses to know deployments, graphs and other
// machines. On the machine, below /var/lib/defx:
//
//	manifest.json  the deployed units: digests, values, owned files
//	fence.json     generation and highest fencing token of each scope
//	journal        actions begun and ended since the manifest was written; its flock locks the machine
//	store/         content by digest: files, unpacked artifacts, the units themselves
//
// On a real machine (not a dir: folder) a Supervisor starts and stops units as well: an
// action ends when the new version is ready, or when the previous one is restored.
//
// Invariants: every file has an owner in the manifest or the journal before it is written; a
// lower token changes nothing; after a crash at any point, repeating the request yields the
// same bytes as an undisturbed one.
package agent
