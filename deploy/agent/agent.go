// Package agent is the side of defx that runs on a machine: the only one that
// writes there. It is asked in frames over whatever connection a transport
// gives.
//
// It knows files, ownership and fencing. It refuses to know deployments,
// graphs and other machines. On the machine, below /var/lib/defx:
//
//	manifest.json  what stands: units, digests, values, owned files
//	fence.json     generation and highest fencing token of each scope
//	journal        what was begun and ended since the manifest was written; its flock is the machine's
//	store/         content by digest: files, unpacked artifacts, the units themselves
//
// On a machine, and not only in a folder, it also has a System start and stop
// units: an action ends when the new version is ready, or with what stood
// before.
//
// Invariants: every file has owners in the manifest or the journal before it
// is written; a lower token changes nothing; a crash at any point leaves a
// state from which the same request gives the same bytes as an undisturbed one.
package agent
