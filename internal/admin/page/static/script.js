// What the page can do without this script: everything. This adds times of this browser's zone, ages, buttons that copy,
// and regions that are fetched anew when what they show has changed.
'use strict';

const every = 3000; // milliseconds between two pulses, give or take a fifth
const longest = 30000; // between two pulses that fail
const patience = 3000; // for so long a pulse may take, with what it leads to, until the page says that it has no answer
const reading = 10000; // for so long after the page was loaded a notice stays although regions are fetched anew
const resting = 4000; // the pointer is at work in a region for so long after it moved there

// skew is how far this browser's clock is behind the server's, in milliseconds.
let skew = 0;

const find = (selector, root = document) => [...root.querySelectorAll(selector)];

// Times and ages

const zone = new Intl.DateTimeFormat(undefined, {
	hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23', timeZoneName: 'short',
});
const day = new Intl.DateTimeFormat(undefined, {month: 'short', day: 'numeric'});

function local(at) {
	if (at.getTimezoneOffset() === 0) return '';
	const otherDay = at.getDate() !== at.getUTCDate();
	return (otherDay ? day.format(at) + ' ' : '') + zone.format(at);
}

function age(at) {
	const seconds = Math.round((Date.now() + skew - at.getTime()) / 1000);
	if (seconds < -3) return 'in ' + span(-seconds);
	return span(Math.max(seconds, 0)) + ' ago'; // two clocks are seldom the same to the second
}

function span(seconds) {
	if (seconds < 60) return seconds + ' s';
	if (seconds < 3600) return Math.floor(seconds / 60) + ' min';
	if (seconds < 172800) return Math.floor(seconds / 3600) + ' h ' + Math.floor(seconds % 3600 / 60) + ' min';
	return Math.floor(seconds / 86400) + ' days';
}

function showTimes(root) {
	for (const time of find('time[datetime]', root)) {
		const at = new Date(time.dateTime);
		const text = [local(at), 'age' in time.dataset ? age(at) : ''].filter(Boolean).join(', ');
		if (!text) continue;
		let beside = time.nextElementSibling;
		if (!beside?.classList.contains('local')) {
			beside = document.createElement('span');
			beside.className = 'local';
			time.after(' ', beside);
		}
		if (beside.textContent !== `(${text})`) beside.textContent = `(${text})`;
	}
}

// Copying

function showCopying(root) {
	for (const button of find('button[data-copy]', root)) button.hidden = false;
}

async function copy(button) {
	const text = button.dataset.copy;
	let done = false;
	try {
		await navigator.clipboard.writeText(text); // over https, and on this machine
		done = true;
	} catch {
		const field = document.createElement('textarea');
		field.value = text;
		document.body.append(field);
		field.select();
		done = document.execCommand('copy');
		field.remove();
		button.focus();
	}
	button.textContent = done ? 'Copied' : 'Select it, and copy it by hand';
	setTimeout(() => { button.textContent = 'Copy'; }, 2000);
}

document.addEventListener('click', (event) => {
	const button = event.target.closest('button[data-copy]');
	if (button) copy(button);
});

// A table that is shown as cards says less to a screen reader in some browsers, unless its parts say what they are.
function nameTables(root) {
	const roles = {table: 'table', thead: 'rowgroup', tbody: 'rowgroup', tr: 'row', td: 'cell', 'thead th': 'columnheader', 'tbody th': 'rowheader'};
	for (const table of find('table.cards', root)) {
		table.setAttribute('role', 'table');
		for (const [selector, role] of Object.entries(roles)) {
			for (const part of find(selector, table)) part.setAttribute('role', role);
		}
	}
}

// A form is sent once, however often its button is pressed.
document.addEventListener('submit', (event) => {
	const form = event.target;
	if (form.method !== 'post') return;
	if (form.dataset.sent) event.preventDefault();
	form.dataset.sent = 'yes';
});
addEventListener('pageshow', () => { for (const form of find('form[data-sent]')) delete form.dataset.sent; });

function dress(root) {
	showTimes(root);
	showCopying(root);
	nameTables(root);
}

// Regions

let moved = 0; // when the pointer moved, or a button of it was pressed, last
for (const what of ['pointermove', 'pointerdown']) document.addEventListener(what, () => { moved = Date.now(); }, {passive: true});

// busy says whether the person is at work in a region: then it stays as it is.
function busy(region) {
	if (region.contains(document.activeElement)) return true;
	if (region.matches(':hover') && Date.now() - moved < resting) return true;
	const selection = getSelection();
	if (selection && !selection.isCollapsed && region.contains(selection.anchorNode)) return true;
	return find('input, textarea, select', region).some(changed);
}

function changed(field) {
	if (field.type === 'checkbox') return field.checked !== field.defaultChecked;
	if (field.tagName === 'SELECT') return find('option', field).some((o) => o.selected !== o.defaultSelected) && find('option[selected]', field).length > 0;
	return field.type !== 'hidden' && field.value !== field.defaultValue;
}

function put(fresh) {
	const region = document.getElementById(fresh.id);
	if (!region || busy(region)) return;
	if (fresh.matches('.tone-bad:not(#bar)') && !region.matches('.tone-bad')) dropNotice();
	if (fresh.querySelector('.gate-word')?.textContent !== region.querySelector('.gate-word')?.textContent) dropNotice();
	const open = find('details[open][id]', region).map((d) => d.id);
	dress(fresh);
	region.replaceChildren(...fresh.childNodes);
	region.className = fresh.className;
	region.dataset.mark = fresh.dataset.mark;
	for (const id of open) {
		const details = document.getElementById(id);
		if (details) details.open = true;
	}
	const over = region.querySelector('[data-over]');
	if (over) decidedMeanwhile(over.textContent);
	if (region.id !== 'bar') {
		region.classList.add('fresh');
		region.addEventListener('animationend', () => region.classList.remove('fresh'), {once: true});
	}
}

// What an act came to is no longer told once things have changed, but stands long enough to be read.
function dropNotice() { document.querySelector('main > .note[role=status]')?.remove(); }

// decidedMeanwhile takes the buttons from a form that a person has begun to fill in: what they typed stays.
function decidedMeanwhile(how) {
	for (const button of find('#decision form button:not([data-copy])').filter((b) => !b.disabled)) {
		button.disabled = true;
		const said = document.createElement('p');
		[said.className, said.role, said.textContent] = ['consequence tone-warn', 'status', `Decided meanwhile: ${how}`];
		button.after(said);
	}
}

async function fetchAnew(names) {
	const address = new URL(location.href);
	address.hash = '';
	for (const name of names) address.searchParams.append('region', name);
	const response = await fetch(address, {signal: AbortSignal.timeout(15000)});
	if (response.redirected) return signedOut();
	if (!response.ok) throw new Error(String(response.status));
	const parsed = new DOMParser().parseFromString(await response.text(), 'text/html');
	for (const fresh of find('[data-region]', parsed)) put(document.adoptNode(fresh));
}

// The pulse

let etag = '';
let marks = {};
let wait = every;
let timer = 0;
let since = ''; // when a pulse began that had no answer, in UTC; '': the latest had one

const utc = (at) => at.toISOString().slice(0, 19).replace('T', ' ') + ' UTC';

// unanswered says so, and leaves no headline standing that may be no longer true. Whose fault that is nobody knows here.
function unanswered(began, why) {
	since ||= utc(began);
	dropNotice();
	lost(`No answer since ${since}: ${why}. What you see may be old. The page goes on asking.`);
	const word = document.querySelector('#bar .gate-word');
	const verdict = document.getElementById('verdict');
	if (word) [word.className, word.textContent] = ['gate-word tone-bad', 'gate: not known'];
	if (word) word.closest('#bar').dataset.mark = ''; // so that it is fetched anew
	if (!verdict || 'unknown' in verdict.dataset) return;
	verdict.dataset.unknown = ''; // the stylesheet hides what it said, but no form
	const headline = document.createElement('h2');
	[headline.id, headline.textContent] = ['unknown', `Not known whether requests move: no answer since ${since}`];
	verdict.prepend(headline);
}

function answered() {
	[since, wait] = ['', every];
	document.getElementById('unknown')?.remove();
	for (const verdict of find('[data-unknown]')) delete verdict.dataset.unknown;
}

// fresh says that all of the page was true just now, unless nothing of it is ever fetched anew.
function fresh() {
	const asOf = document.querySelector('.title time');
	if (!asOf || find('main [data-region]').length === 0) return;
	const at = new Date(Date.now() + skew);
	[asOf.dateTime, asOf.textContent] = [at.toISOString(), utc(at)];
}

function lost(text) {
	const line = document.getElementById('lost');
	if (!line) return;
	if (line.hidden !== !text) line.hidden = !text;
	if (line.textContent !== text) line.textContent = text;
}

function signedOut() {
	stopped = true;
	lost('You are signed out. Load the page again to sign in.');
}

let stopped = false;

async function pulse() {
	const address = new URL('pulse', location.href);
	address.search = location.search; // it names the requests that this page is about
	const response = await fetch(address, {headers: etag ? {'If-None-Match': etag} : {}, signal: AbortSignal.timeout(15000)});
	if (response.status === 401 || response.status === 403) return signedOut();
	if (response.status === 200) {
		etag = response.headers.get('ETag') ?? '';
		marks = await response.json();
	} else if (response.status !== 304) {
		throw new Error(String(response.status));
	}
	if (find('main[data-away]').length > 0 && !marks.away) return location.reload();
	const now = document.body.dataset.screen === 'now';
	lost(marks.away && !now ? marks.away + ' What you see may be old.' : '');
	// While the worker has no Postgres, what was read before stays, but for the first screen, which says so.
	const old = find('[data-region]').filter((region) => (!marks.away || now || region.id === 'bar') &&
		region.dataset.of.split(' ').map((name) => marks[name] ?? '').join('.') !== region.dataset.mark);
	const stale = old.filter((region) => !busy(region));
	if (stale.length > 0) {
		await fetchAnew(stale.map((region) => region.dataset.region));
		if (performance.now() > reading) dropNotice();
	}
	if (old.length === stale.length && !(marks.away && !now)) fresh();
}

async function beat() {
	clearTimeout(timer);
	if (stopped || document.visibilityState !== 'visible') return;
	const began = new Date(Date.now() + skew);
	const late = setTimeout(() => unanswered(began, 'this worker or its Postgres takes too long, or the way to them is lost'), patience);
	try {
		await pulse();
		answered();
	} catch (error) {
		wait = Math.min(wait * 2, longest);
		unanswered(began, /^[0-9]+$/.test(error.message) ? `the page was answered with HTTP status ${error.message}` :
			'this worker cannot be reached, or takes too long');
	}
	clearTimeout(late);
	showTimes(document); // ages grow
	clearTimeout(timer);
	timer = setTimeout(beat, wait * (0.8 + 0.4 * Math.random()));
}

// A browser that comes from another site does not send its cookie at first. It does with this question.
async function goOn() {
	const response = await fetch('pulse');
	const link = document.querySelector('#again a');
	if (response.ok && link) location.replace(link.href);
}

function begin() {
	const asOf = document.querySelector('.title time');
	if (asOf) skew = new Date(asOf.dateTime).getTime() - Date.now();
	dress(document);
	if (document.querySelector('#again a')) {
		goOn().catch(() => {});
		return;
	}
	if (!document.getElementById('bar')) return;
	document.addEventListener('visibilitychange', beat);
	timer = setTimeout(beat, every * Math.random());
}

begin();
