// How often tests repeat what could go wrong by chance, or for how many seconds they do it: in each
// run, and for a release (scripts/test --full). The one place for it.
#pragma once

#include <string_view>

namespace booster::test {

struct Count {
  std::string_view test;  // without the policy
  std::string_view what;  // "" if the test has but one
  int short_run;
  int full;
  int full_elsewhere = 0;  // on volumes of several bricks; 0: the same
};

// clang-format off
inline constexpr Count kCounts[] = {
    {"Alone.WhoOpensAFileSeesEveryWriteThatHasReturned", "", 3, 100, 0},
    {"Alone.WhoOpensAFileInTheMiddleOfAWriteSeesTheOneBeforeIt", "", 10, 300, 0},
    {"Alone.SmallWritesAreSeenByLargeReadsOfOthersAtOnce", "", 200, 3000, 0},
    {"Alone.WhatTheProgramWroteThroughTheKernelComesBeforeItsBoostedCalls", "", 100, 1000, 0},
    {"Alone.ThatAFileIsOpenedDoesNotChangeTimesThatWereSet", "", 15, 200, 0},
    {"Alone.AProgramThatIsKilledRightAfterAWriteHoldsUpWhoOpensTheFile", "", 10, 200, 0},
    {"Alone.WhenTheDaemonDiesWritesGoOnThroughTheKernel", "", 2, 20, 0},
    {"Cached.WhatAProgramWithoutBoosterClosedIsSeenAtOnce", "", 100, 1000, 0},
    {"Cached.EachWriteOfABoostedProgramIsSeenAtOnce", "", 30, 300, 0},
    {"Cached.AFileThatIsCutIsShortAtOnce", "", 3, 30, 0},
    {"Cached.ADeadDaemonsCacheIsBelievedByNobody", "", 6, 40, 0},
    {"Cached.AProgramSeesItsOwnWriteWhateverHappensToTheDaemon", "", 10, 50, 0},
    {"Cached.AProgramThatCutsAFileByItsNameSeesThatItself", "", 3, 20, 0},
    {"Cached.WhoeverCutsAFileAllTheTimeDoesNotEndTheDaemon", "", 5, 60, 0},
    {"Patterns.AreServedAsByFuseWhileTheFileIsWrittenAnew", "seconds", 2, 20, 0},
    {"SmallCache.WhatIsTooMuchGoesAndNobodySeesAWrongByte", "", 5, 60, 0},
    {"LargeCache.WhatIsFilledWhileDroppedMemoryGoesStays", "", 3, 30, 0},
    {"CachedOnTwoHosts.WhatAnotherHostClosedIsSeenWithinASecond", "", 10, 100, 0},
    {"CachedOnTwoHosts.WhoOwnsAFileSeesNoZerosBehindWhatAnotherHostMadeLonger", "", 3, 30, 0},
    {"CachedOnTwoHosts.AnOpenShowsWhatAnotherHostHasClosed", "", 20, 200, 0},
    {"CachedOnTwoHosts.ALockShowsWhatWasWrittenUnderItElsewhere", "", 20, 200, 0},
    {"Coherence.EveryReadSeesWhatWasPromised", "histories", 2, 20, 0},
    {"Coherence.EveryReadSeesWhatWasPromised", "calls", 6000, 20'000, 0},
    {"Context.AMountWhoseFilesAreClosedCanBeUnmountedAndComeBack", "", 3, 20, 0},
    {"Context.ManyShortSessionsLeaveNothingInTheDaemon", "", 20, 1000, 0},
    {"Corners.ANumberThatIsReplacedDuringACallTakesNoBytesAlong", "", 300, 1000, 0},
    {"Corners.AThreadSeesItsOwnWriteWhileAnotherSettles", "", 100, 1000, 0},
    {"Death.UnderLoadNoByteIsLostAndWorkIsBoostedAgain", "", 5, 190, 47},
    {"Death.UnderLoadNoByteIsLostWithTheDefaultQuarantine", "", 1, 10, 3},
    {"Death.NothingOldComesBackFromASlowBrick", "", 1, 8, 0},
    {"Exercise.TheSameWithLittleRoom", "", 3, 30, 0},
    {"Exercise.WhateverAProgramDoesWithAFileItSeesWhatItMust", "", 8, 100, 0},
    {"Exits.WhatWasAcknowledgedIsSeenAfterWait", "", 3, 300, 60},
    {"Fence.WithoutItFuseShowsAnOldSizeToWhoDoesNotOpenTheFile", "", 30, 100, 0},
    {"Fence.AnotherProcessSeesAWriteThatHasReturned", "", 30, 300, 0},
    {"Fence.NothingIsStaleAfterClose", "", 100, 1000, 0},
    {"Fence.NothingIsStaleAfterAnyWayToClose", "", 20, 200, 0},
    {"Fence.NothingIsStaleAfterSync", "", 30, 300, 0},
    {"Fence.NothingIsStaleAfterUnlock", "", 30, 300, 0},
    {"Fence.NothingIsStaleAfterExitWithoutClose", "", 20, 200, 0},
    {"Fence.NothingIsStaleAfterFork", "", 20, 200, 0},
    {"Fence.NothingIsStaleAfterExec", "", 20, 200, 0},
    {"Fence.AWriterThatWasKilledIsSeenWithinASecondAndALittle", "", 10, 100, 0},
    {"Fence.WhatOthersClosedIsSeenByABoostedReaderAtOnce", "", 100, 1000, 0},
    {"Fence.WhatIsAppendedWithoutBoosterRightAfterCloseStandsAtTheEnd", "", 20, 200, 0},
    {"Interrupted.AHandlerReturns", "", 2, 40, 0},
    {"Interrupted.AHandlerJumps", "", 2, 40, 0},
    {"Interrupted.AHandlerForks", "", 2, 40, 0},
    {"Interrupted.AHandlerBecomesAnotherProgram", "", 2, 40, 0},
    {"Interrupted.AHandlerEndsTheProgram", "", 2, 40, 0},
    {"Logged.WhoOpensAFileSeesEveryWriteThatHasReturned", "", 3, 50, 0},
    {"Logged.AProgramThatIsKilledRightAfterAWriteLeavesAllOfIt", "", 15, 200, 0},
    {"Logged.TwoWritersHandTheFileOver", "", 200, 5000, 0},
    {"LoggedAndKilled.ADeadDaemonsRecordsAreWrittenByTheProgram", "", 8, 100, 0},
    {"LoggedAndKilled.ATerminatedDaemonLeavesNothingUnwritten", "", 4, 30, 0},
    {"LoggedAndKilled.WhatAProgramHasLoggedOutlivesItAndTheDaemon", "", 4, 30, 0},
    {"LoggedAndKilled.NobodysNewerBytesAreOverwrittenByALog", "", 4, 30, 0},
    {"Offset.TwoThreadsAtAGrowingEndLoseAndRepeatNothing", "", 5, 100, 0},
    {"Offset.IsTheTrueOneForWhoeverLooksAtIt", "times 100 looks", 10, 100, 0},
    {"Offset.AKilledWriterLeavesNoHoleForTheNext", "", 25, 1000, 0},
    {"Recall.WhoOpensAFileUnderLoadSeesWhatWasAcknowledged", "", 300, 10'000, 0},
    {"Recall.AStoppedWriterHoldsUpNobodyAndLosesNothing", "", 60, 2000, 0},
    {"Recall.TheWriterItselfOpensItsFile", "", 60, 2000, 0},
    {"Recall.ACrowdOpensAFileAtOnce", "", 200, 2000, 0},
    {"RecallInALongWrite.WhoHasOpenedTheFileMeanwhileSeesAllOfItAfterwards", "", 5, 100, 0},
    {"Times.WhoSetsThemRightAfterAWriteIsOvertakenSeldom", "", 50, 1000, 0},
    {"WatchMounts.TheLastOfManyMountsIsServedAsTheFirstAndEachCanBeUnmounted", "", 40, 200, 0},
    {"Fuzz.TheDaemonSurvivesAMinuteOfGarbage", "", 15, 60, 0},
    {"Hostile.ASessionThatEndsWithAllLanesInFlightEndsCleanly", "", 60, 2000, 0},
    {"Hostile.PagesThatTheClientTakesAwayOrCannotUseDoNotHarmTheDaemon", "", 300, 5000, 0},
    {"Hostile.GarbageInEveryWordOfTheMemoryEndsOnlyThatSession", "", 30, 500, 0},
    {"Hostile.ThousandsOfHandlesOfOneClientCostTheOthersNothing", "", 300, 4096, 0},
    {"Hostile.AFloodOfPacketsHoldsNobodyUp", "packets", 100'000, 1'000'000, 0},
    {"Hostile.AFloodOfPacketsHoldsNobodyUp", "engages", 5000, 100'000, 0},
    {"Hostile.AClientThatStandsStillHoldsNobodyUp", "", 20, 200, 0},
};
// clang-format on

}  // namespace booster::test
