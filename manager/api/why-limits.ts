/** How much of a large cluster an answer of `why` names. */
export const shownNodes = 10;
export const shownTasks = 5;
